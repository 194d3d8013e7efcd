"""What one site could become: every GKPD structure, at a ladder of ranks, in its fastest estimated form."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from kronexport.factorize.gkpd import gkpd_structure, max_rank
from kronexport.factorize.scan import ErrorScan
from kronexport.factorize.spectra import scanned_structures
from kronexport.lower.axes import least_macs
from kronexport.lower.forms import DENSE, dense_form, generate_forms
from kronexport.plan.cost_model import Seconds
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
    sites: Sequence[Site], scan: ErrorScan, seconds: Seconds, progress: ProgressCallback
) -> list[list[Candidate]]:
    """For each site: left dense, and every candidate on the Pareto front of params, MACs, size, time and weight error.

    There are two fronts in the list: that of the candidates that pay, and that of the others. A structure that
    needs more params or MACs than dense is dropped. The form ``dense`` of a factorized site is not among the
    candidates, since leaving the site as it is costs the same and has no error.
    """
    shared: dict[tuple[Any, ...], list[_Cost]] = {}
    found = []
    for index, site in enumerate(sites):
        key = (site.batch, site.out_channels, site.in_channels, site.geometry, site.input_size)
        if key not in shared:
            shared[key] = list(_costs(site, seconds))
        found.append(_site_candidates(site, scan, shared[key], seconds))
        progress("plan", index + 1, len(sites))
    return found


def candidate_structures(site: Site) -> Iterator[Structure]:
    """The structures of rank 1 that the planner looks at: those scanned.

    The first factor says which group an output channel is of (docs/decisions/0005).
    """
    for unit in scanned_structures(site.weight_shape):
        if unit.factors[0].f % site.geometry.group == 0:
            yield unit


@dataclass(frozen=True, slots=True)
class _Cost:
    """A structure at one rank in its fastest estimated form: all that does not depend on the weight."""

    structure: Structure
    lowering: str
    macs: int
    weights: int
    seconds: float


def _site_candidates(site: Site, scan: ErrorScan, costs: Sequence[_Cost], seconds: Seconds) -> list[Candidate]:
    bias = site.out_channels if site.has_bias else 0
    by_unit: dict[Structure, list[_Cost]] = {}
    for cost in costs:
        outer, inner = cost.structure.factors
        by_unit.setdefault(gkpd_structure(outer.size, inner.size, 1), []).append(cost)
    dense_seconds = seconds(dense_form(site.weight_shape, site.geometry, site.input_size), site.batch)
    found = []
    for unit, ladder in by_unit.items():
        errors = scan.errors(site.name, unit)
        for cost in ladder:
            error = float(errors[cost.structure.ranks[0] - 1])
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


def _costs(site: Site, seconds: Seconds) -> Iterator[_Cost]:
    """Of each structure and rank the fastest form by estimate, and that of those of fewest MACs, if it is another."""
    for unit in candidate_structures(site):
        outer, inner = unit.factors
        for rank in _ranks(unit, site):
            structure = gkpd_structure(outer.size, inner.size, rank)
            # the forms of all ranks above 1 differ in nothing but the size of the rank axis; those that need more MACs
            # than dense are lacking at the higher rank, and are left out below
            template = gkpd_structure(outer.size, inner.size, min(rank, 2))
            _, *others = _forms(template, site.geometry, site.input_size)
            forms = [replace(form, structure=structure) for form in others]
            timed = [(seconds(form, site.batch), form) for form in forms if form.macs * site.batch < site.macs]
            leanest = min(timed, key=lambda pair: (pair[1].macs, pair[0]))
            fastest = min(timed, key=lambda pair: pair[0])
            for taken, form in {fastest[1].name: fastest, leanest[1].name: leanest}.values():
                yield _Cost(structure, form.name, form.macs * site.batch, form.weights, taken)


_forms = lru_cache(maxsize=4096)(generate_forms)


def _ranks(unit: Structure, site: Site) -> list[int]:
    """All small ranks, then steps of an eighth, as long as both params and MACs stay below dense."""
    macs = site.batch * least_macs(unit, site.geometry, site.input_size)
    weight = math.prod(unit.weight_shape)
    limit = min(max_rank(unit), (weight - 1) // unit.params, (site.macs - 1) // macs)
    ranks, rank = [], 1
    while rank <= limit:
        ranks.append(rank)
        rank += max(1, rank // 8)
    return ranks


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
