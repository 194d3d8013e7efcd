"""What one site could become: the structures of every family, each in its fastest estimated form, with its error."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from kronexport.cache import code_key, content_key, read_record, write_cached
from kronexport.factorize.scan import ErrorScan
from kronexport.lower.forms import DENSE, dense_form, generate_forms
from kronexport.measure.work import work_of
from kronexport.plan.cost_model import CostModel
from kronexport.plan.families import FAMILIES, Family
from kronexport.records import ProgressCallback, Site, Structure


@dataclass(frozen=True, slots=True)
class Candidate:
    """``params`` and ``macs`` of the site; ``squared_error`` = ||W - W^||^2 / ||W||^2. Structure None: stays dense.

    ``weights`` counts the elements that model.onnx stores: a grouped form repeats some.
    ``seconds`` is the cost model's estimate for the whole batch, and ``pays`` whether that is below dense's; staying
    dense always pays.
    """

    structure: Structure | None
    lowering: str
    params: int
    macs: int
    weights: int
    squared_error: float
    seconds: float
    pays: bool

    @property
    def cubed_error(self) -> float:
        """(||W - W^|| / ||W||)^3, which the choice sums over sites (docs/decisions/0004)."""
        return math.pow(self.squared_error, 1.5)


def all_candidates(
    sites: Sequence[Site],
    scan: ErrorScan,
    model: CostModel,
    progress: ProgressCallback,
    families: Mapping[str, Family] = FAMILIES,
) -> list[list[Candidate]]:
    """For each site: left dense, and every candidate on the Pareto front of params, MACs, size, time and weight error.

    There are two fronts in the list: that of the candidates that pay, and that of the others. A structure that
    needs more params or MACs than dense is dropped. The form ``dense`` of a factorized site is not among the
    candidates, since leaving the site as it is costs the same and has no error.
    """
    shared: dict[tuple[Any, ...], list[_Cost]] = {}
    found = []
    for index, site in enumerate(sites):
        key = _key(site, scan, model, families)
        candidates = read_record("candidates", key, _FILE)
        if candidates is None:
            alike = (site.batch, site.out_channels, site.in_channels, site.geometry, site.input_size)
            if alike not in shared:
                shared[alike] = list(_costs(site, model, families))
            candidates = _site_candidates(site, scan, shared[alike], model)
            write_cached("candidates", key, _FILE.dump_json(candidates))
        found.append(candidates)
        progress("plan", index + 1, len(sites))
    return found


def _key(site: Site, scan: ErrorScan, model: CostModel, families: Mapping[str, Family]) -> str:
    """The hash of all that the candidates of a site depend on."""
    described = repr((replace(site, name=""), model.rank_multiple, list(families)))
    return content_key(code_key(), described.encode(), model.key, scan.key(site.name))


_FILE: Final = TypeAdapter(list[Candidate])


@dataclass(frozen=True, slots=True)
class _Cost:
    """A structure at one rank in its fastest estimated form: all that does not depend on the weight."""

    structure: Structure
    lowering: str
    macs: int
    weights: int
    seconds: float


def _site_candidates(site: Site, scan: ErrorScan, costs: Sequence[_Cost], model: CostModel) -> list[Candidate]:
    bias = site.out_channels if site.has_bias else 0
    by_unit: dict[Structure, list[_Cost]] = {}
    for cost in costs:
        by_unit.setdefault(_at_most(cost.structure, 1), []).append(cost)
    dense_seconds = model.seconds(dense_form(site.weight_shape, site.geometry, site.input_size), site.batch)
    found = []
    for unit, ladder in by_unit.items():
        errors = scan.errors(site.name, unit)
        for cost in ladder:
            error = float(errors[tuple(rank - 1 for rank in cost.structure.ranks)])
            found.append(
                Candidate(
                    structure=cost.structure,
                    lowering=cost.lowering,
                    params=cost.structure.params + bias,
                    macs=cost.macs,
                    weights=cost.weights + bias,
                    squared_error=error,
                    seconds=cost.seconds,
                    pays=cost.seconds < dense_seconds,
                )
            )
    dense = Candidate(None, DENSE, site.params, site.macs, site.params, 0.0, dense_seconds, pays=True)
    paying = _pareto([candidate for candidate in found if candidate.pays])
    return [dense, *paying, *_pareto([candidate for candidate in found if not candidate.pays])]


def _costs(site: Site, model: CostModel, families: Mapping[str, Family]) -> Iterator[_Cost]:
    """Of each structure the fastest form by estimate, and that of fewest MACs, if it is another.

    A form that needs as many MACs as dense is left out: those of a structure at low ranks are generated, and at higher
    ones they may.
    """
    structures = (structure for family in families.values() for structure in family(site, model.rank_multiple))
    # the forms at all ranks above 1 differ in nothing but the sizes of the rank axes
    for template, group in itertools.groupby(structures, lambda structure: _at_most(structure, 2)):
        ladder = list(group)
        letters = template.rank_sizes
        ranks = dict(zip(letters, np.array([structure.ranks for structure in ladder], np.int64).T, strict=True))
        _, *forms = generate_forms(template, site.geometry, site.input_size)
        works = [work_of(form, site.batch, ranks) for form in forms]
        macs = _rows([work.macs for work in works], len(ladder))
        seconds = _rows([model.of_work(work) for work in works], len(ladder))
        seconds[macs >= site.macs] = math.inf
        fastest, leanest = seconds.argmin(axis=0), np.lexsort((seconds, macs), axis=0)[0]
        for at, structure in enumerate(ladder):
            for row in dict.fromkeys((int(fastest[at]), int(leanest[at]))):
                weights = np.broadcast_to(works[row].weights, len(ladder))[at]
                yield _Cost(structure, forms[row].name, int(macs[row, at]), int(weights), float(seconds[row, at]))


def _rows(counts: Sequence[Any], length: int) -> NDArray[Any]:
    """[counts, length], each a number or an array of that length."""
    return np.array([np.broadcast_to(count, length) for count in counts])


def _at_most(structure: Structure, rank: int) -> Structure:
    """The structure with ranks cut down to ``rank``."""
    return replace(structure, ranks=tuple(min(each, rank) for each in structure.ranks))


def _pareto(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other beats or equals in params, MACs, size, time and error at once; of twins the first stays."""
    kept: list[Candidate] = []
    costs = np.empty((len(candidates), 4))
    # by ascending error: a later one can only be kept for needing less of something than every one kept so far
    for candidate in sorted(candidates, key=lambda c: (c.squared_error, c.params, c.macs, c.weights, c.seconds)):
        cost = candidate.params, candidate.macs, candidate.weights, candidate.seconds
        if not np.any(np.all(costs[: len(kept)] <= cost, axis=1)):
            costs[len(kept)] = cost
            kept.append(candidate)
    return kept
