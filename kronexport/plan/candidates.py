"""What one site could become: every GKPD structure, at a ladder of ranks, in its fastest estimated form."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from kronexport.backends.profile import TargetProfile
from kronexport.factorize.gkpd import divisor_structures, gkpd_structure, max_rank
from kronexport.factorize.scan import ErrorScan
from kronexport.lower.axes import axis_sizes, contraction_macs, contractions, orders
from kronexport.lower.forms import DENSE, generate_forms
from kronexport.plan.roofline import conv_seconds, form_seconds
from kronexport.records import ProgressCallback, Site, Structure


@dataclass(frozen=True, slots=True)
class Candidate:
    """``params`` and ``macs`` of the site; ``squared_error`` = ||W - W^||^2 / ||W||^2. Structure None: stays dense.

    ``seconds`` is the roofline's estimate for the whole batch, and ``pays`` whether that is below dense's; staying
    dense always pays.
    """

    structure: Structure | None
    lowering: str
    params: int
    macs: int
    squared_error: float
    seconds: float
    pays: bool


def all_candidates(
    sites: Sequence[Site], scan: ErrorScan, profile: TargetProfile, progress: ProgressCallback
) -> list[list[Candidate]]:
    """For each site: left dense, and every candidate on the Pareto front of params, MACs, time and weight error.

    There are two fronts in the list: that of the candidates that pay, and that of the others. A structure that
    needs more params or MACs than dense is dropped. The form ``dense`` of a factorized site is not among the
    candidates, since leaving the site as it is costs the same and has no error.
    """
    shared: dict[tuple[Any, ...], list[_Cost]] = {}
    found = []
    for index, site in enumerate(sites):
        key = (site.batch, site.out_channels, site.in_channels, site.geometry, site.input_size)
        if key not in shared:
            shared[key] = list(_costs(site, profile))
        found.append(_site_candidates(site, scan, shared[key], profile))
        progress("plan", index + 1, len(sites))
    return found


@dataclass(frozen=True, slots=True)
class _Cost:
    """A structure at one rank in its fastest estimated form: all that does not depend on the weight."""

    structure: Structure
    lowering: str
    macs: int
    seconds: float


def _site_candidates(site: Site, scan: ErrorScan, costs: Sequence[_Cost], profile: TargetProfile) -> list[Candidate]:
    bias = site.out_channels if site.has_bias else 0
    by_unit: dict[Structure, list[_Cost]] = {}
    for cost in costs:
        outer, inner = cost.structure.factors
        by_unit.setdefault(gkpd_structure(outer.size, inner.size, 1), []).append(cost)
    seconds = site.batch * conv_seconds((site.out_channels, site.in_channels), site.geometry, site.input_size, profile)
    found = [Candidate(None, DENSE, site.params, site.macs, 0.0, seconds, pays=True)]
    for unit, ladder in by_unit.items():
        errors = scan.errors(site.name, unit)
        for cost in ladder:
            error = float(errors[cost.structure.ranks[0] - 1])
            params, pays = cost.structure.params + bias, cost.seconds < seconds
            found.append(Candidate(cost.structure, cost.lowering, params, cost.macs, error, cost.seconds, pays))
    paying = _pareto([candidate for candidate in found if candidate.pays])
    return paying + _pareto([candidate for candidate in found if not candidate.pays])


def _costs(site: Site, profile: TargetProfile) -> Iterator[_Cost]:
    for unit in divisor_structures((site.out_channels, site.in_channels, *site.geometry.kernel)):
        outer, inner = unit.factors
        for rank in _ranks(unit, site):
            structure = gkpd_structure(outer.size, inner.size, rank)
            # the forms of all ranks above 1 differ in nothing but the size of the rank axis
            template = gkpd_structure(outer.size, inner.size, min(rank, 2))
            _, *others = _forms(template, site.geometry, site.input_size)
            forms = [replace(form, structure=structure) for form in others]
            best = min(forms, key=lambda form: form_seconds(form, profile))
            if best.macs * site.batch < site.macs:
                seconds = site.batch * form_seconds(best, profile)
                yield _Cost(structure, best.name, best.macs * site.batch, seconds)


_forms = lru_cache(maxsize=4096)(generate_forms)


def _ranks(unit: Structure, site: Site) -> list[int]:
    """All small ranks, then steps of an eighth, as long as both params and MACs stay below dense."""
    sizes = axis_sizes(unit)
    macs = site.batch * min(
        sum(contraction_macs(step, sizes) for step in contractions(unit, site.geometry, site.input_size, order))
        for order in orders(unit)
    )
    weight = math.prod(unit.weight_shape)
    limit = min(max_rank(unit), (weight - 1) // unit.params, (site.macs - 1) // macs)
    ranks, rank = [], 1
    while rank <= limit:
        ranks.append(rank)
        rank += max(1, rank // 8)
    return ranks


def _pareto(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other beats or equals in params, MACs, time and error at once; of twins the first stays."""
    kept: list[Candidate] = []
    costs = np.empty((len(candidates), 3))
    # by ascending error: a later one can only be kept for needing less of something than every one kept so far
    for candidate in sorted(candidates, key=lambda c: (c.squared_error, c.params, c.macs, c.seconds)):
        cost = candidate.params, candidate.macs, candidate.seconds
        if not np.any(np.all(costs[: len(kept)] <= cost, axis=1)):
            costs[len(kept)] = cost
            kept.append(candidate)
    return kept
