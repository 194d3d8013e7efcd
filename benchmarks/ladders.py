"""The structures of each method that a plan may choose among: its usual factors at a ladder of ranks.

Ranks are parts of the channels, so that all layers have the same ladder. GKPD has none, nor has the planner of the
product with all its families: they have ladders of their own.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from torch import nn

from benchmarks.planning import GKPD, TARGET, planner_candidates
from kronexport.backends.profile import load_target
from kronexport.export.replace import site_weights
from kronexport.factorize.cp import cp_max_ranks
from kronexport.factorize.decompose import METHODS, decompose
from kronexport.factorize.network import relative_error
from kronexport.factorize.sekron import sekron_max_ranks
from kronexport.factorize.tensor import Size4
from kronexport.factorize.tensor_ring import tensor_ring_max_ranks
from kronexport.factorize.tensor_train import tensor_train_max_ranks
from kronexport.factorize.tucker import tucker_max_ranks
from kronexport.lower.forms import DENSE, Form, dense_form, generate_forms
from kronexport.plan.candidates import Candidate
from kronexport.plan.roofline import form_seconds
from kronexport.records import ConvGeometry, Pair, Site, Structure


@dataclass(frozen=True, slots=True)
class Ladder:
    """``rungs`` gives the factor sizes and ranks to try for a weight [F, C, kh, kw]; some may be too high.

    ``most`` is the highest rank of each axis that is of any use in a structure.
    """

    rungs: Callable[[Size4], Iterable[tuple[list[Size4], tuple[int, ...]]]]
    most: Callable[[Structure], dict[str, int]]


def ladder_structures(method: str, shape: Size4) -> Iterator[Structure]:
    """The structures of ``method`` for a weight [F, C, kh, kw]; none twice."""
    ladder = LADDERS[method]
    for sizes, ranks in dict.fromkeys((tuple(sizes), ranks) for sizes, ranks in ladder.rungs(shape)):
        if min(ranks) > 0:
            structure = METHODS[method].structure(sizes, ranks)
            most = ladder.most(structure)
            if all(rank <= most[axis] for axis, rank in structure.rank_sizes.items()):
                yield structure


def ladder_candidates(model: nn.Module, sites: Iterable[Site], method: str) -> list[list[Candidate]]:
    """For each site dense, and every structure of the ladder that needs fewer params and MACs than it."""
    profile = load_target(TARGET)
    found = []
    for site in sites:
        weight = site_weights(model, (site.name,))[site.name]
        bias = site.out_channels if site.has_bias else 0
        seconds = form_seconds(dense_form(site.weight_shape, site.geometry, site.input_size), profile)
        options = [Candidate(None, DENSE, site.params, site.macs, site.params, 0.0, seconds, pays=True)]
        for structure in ladder_structures(method, site.weight_shape):
            form = _leanest(structure, site.geometry, site.input_size)
            if structure.params + bias < site.params and form.macs < site.macs:
                error = relative_error(weight, decompose(weight, structure).to_dense())
                params, weights, took = structure.params + bias, form.weights + bias, form_seconds(form, profile)
                options.append(
                    Candidate(structure, form.name, params, form.macs, weights, error**2, took, pays=took < seconds)
                )
        found.append(options)
    return found


@lru_cache(maxsize=4096)
def _leanest(structure: Structure, geometry: ConvGeometry, input_size: Pair) -> Form:
    """The form of fewest MACs."""
    _, *forms = generate_forms(structure, geometry, input_size)
    return min(forms, key=lambda form: form.macs)


def _parts(channels: int, eighths: Iterable[int]) -> list[int]:
    return [channels * part // 8 for part in eighths]


def _tucker2(shape: Size4) -> Iterator[tuple[list[Size4], tuple[int, ...]]]:
    sizes = _usual("tucker2", shape)
    for ranks in itertools.product(*(_parts(channels, range(2, 9)) for channels in shape[:2])):
        yield sizes, ranks


def _tensor_train(shape: Size4) -> Iterator[tuple[list[Size4], tuple[int, ...]]]:
    """The rank between kh and kw as parts of the smaller of what its two sides can tell apart."""
    for first, last in itertools.product(*(_parts(channels, (3, 4, 5, 6, 8)) for channels in shape[:2])):
        for middle in _parts(min(first * shape[2], last * shape[3]), (3, 4, 6, 8)):
            yield _usual("tt", shape), (first, middle, last)


def _tensor_ring(shape: Size4) -> Iterator[tuple[list[Size4], tuple[int, ...]]]:
    """A narrow bond between F and C; at one it would be Tucker-2."""
    sizes = _usual("tr", shape)
    for bond, part in itertools.product((2, 4), (1, 1.5, 2, 2.5, 3, 3.5)):
        yield sizes, (int(shape[0] * part / 8), int(shape[1] * part / 8), bond)


def _cp(shape: Size4) -> Iterator[tuple[list[Size4], tuple[int, ...]]]:
    for rank in _parts(max(shape[:2]), (4, 8, 12, 16, 20, 24)):
        yield _usual("cp", shape), (rank,)


def _sekron(shape: Size4) -> Iterator[tuple[list[Size4], tuple[int, ...]]]:
    """Pointwise, k x k a channel, pointwise; and few whole channel matrices, each with a separable kernel.

    The bottleneck with a second rank of 1 is CP.
    """
    filters, channels, height, width = shape
    bottleneck: list[Size4] = [(filters, 1, 1, 1), (1, 1, height, width), (1, channels, 1, 1)]
    as_cp = ((rank, 1) for rank in _parts(filters, range(2, 9)))
    for first, second in (*as_cp, *itertools.product(_parts(filters, (3, 4, 5, 6)), (2, 3))):
        yield bottleneck, (first, second)
    for split in (1, 2) if channels % 2 == 0 else (1,):
        separable: list[Size4] = [(filters, channels // split, 1, 1), (1, split, height, 1), (1, 1, 1, width)]
        for first, second in itertools.product((2 * split, 3 * split, 4 * split), (1, 2)):
            yield separable, (first, second)


def _usual(method: str, shape: Size4) -> list[Size4]:
    usual = METHODS[method].usual_sizes
    assert usual is not None  # noqa: S101  # for the type checker: true of all methods asked for
    return usual(shape)


LADDERS: dict[str, Ladder] = {
    "sekron": Ladder(_sekron, sekron_max_ranks),
    "tucker2": Ladder(_tucker2, tucker_max_ranks),
    "tt": Ladder(_tensor_train, tensor_train_max_ranks),
    "tr": Ladder(_tensor_ring, tensor_ring_max_ranks),
    "cp": Ladder(_cp, cp_max_ranks),
}
"""By the method's name."""

CANDIDATES: dict[str, Callable[[nn.Module, Sequence[Site]], list[list[Candidate]]]] = {
    "planner": planner_candidates,
    "gkpd": partial(planner_candidates, families=GKPD),
    **{method: partial(ladder_candidates, method=method) for method in LADDERS},
}
"""What each site of a model may become, by method; ``planner``: all that the planner of the product chooses among."""
