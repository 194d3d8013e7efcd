"""Plans of least weight error within a budget of params and MACs, over the planner's structures, in any time."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from torch import nn

from kronexport.backends.profile import load_target
from kronexport.errors import GoalError
from kronexport.export.replace import site_weights
from kronexport.factorize.scan import ErrorScan
from kronexport.plan.candidates import Candidate, all_candidates
from kronexport.plan.choose import solve
from kronexport.plan.cost_model import roofline_model
from kronexport.plan.families import FAMILIES, Family
from kronexport.records import Plan, Site, SitePlan, Survey

TARGET = "cpu"
Measure = Literal["params", "macs"]
MEASURES: tuple[Measure, Measure] = ("params", "macs")


GKPD: Mapping[str, Family] = {"gkpd": FAMILIES["gkpd"]}
"""The pairs of factors alone, in which most benchmarks were measured."""


def planner_candidates(
    model: nn.Module, sites: Sequence[Site], families: Mapping[str, Family] = FAMILIES
) -> list[list[Candidate]]:
    """What the planner chooses among for each site, dense first."""
    scan = ErrorScan(site_weights(model, tuple(site.name for site in sites)))
    scan.prefetch(_quiet)
    return all_candidates(sites, scan, roofline_model(load_target(TARGET)), _quiet, families)


def network_budget(found: Survey, factor: float) -> dict[str, float]:
    """What the sites may need for the whole network to have ``factor`` times fewer params and MACs."""
    return {name: getattr(found, name) / factor - (getattr(found, name) - _sum(found.sites, name)) for name in MEASURES}


def sites_budget(found: Survey, factor: float) -> dict[str, float]:
    """What the sites may need to have ``factor`` times fewer params and MACs than they have now."""
    return {name: _sum(found.sites, name) / factor for name in MEASURES}


def least_error_plan(
    sites: Sequence[Site], candidates: Sequence[Sequence[Candidate]], budget: Mapping[str, float]
) -> Plan:
    """One candidate a site.

    Raises:
        GoalError: no choice is within the budget.
    """
    for name, limit in budget.items():
        least = sum(min(getattr(candidate, name) for candidate in options) for options in candidates)
        if least > limit:
            raise GoalError(f"{name} of the sites: {limit:.0f} asked for, {least} is the least that is reachable")
    chosen = solve(candidates, budget)
    return Plan(TARGET, tuple(map(_site_plan, sites, chosen)), "roofline")


def network_reduction(found: Survey, plan: Plan, name: Measure) -> float:
    """Dense / compressed of the whole network."""
    dense = getattr(found, name)
    return float(dense / (dense - _sum(found.sites, name) + _sum(plan.sites, name)))


def sites_reduction(found: Survey, plan: Plan, name: Measure) -> float:
    """Dense / compressed of the sites alone."""
    return _sum(found.sites, name) / _sum(plan.sites, name)


def _site_plan(site: Site, pick: Candidate) -> SitePlan:
    rel_error = float(np.sqrt(pick.squared_error))
    return SitePlan(site.name, pick.structure, pick.lowering, pick.params, pick.macs, rel_error)


def _sum(parts: Sequence[Site] | Sequence[SitePlan], name: Measure) -> int:
    return sum(int(getattr(part, name)) for part in parts)


def _quiet(_stage: str, _done: int, _total: int) -> None:
    pass
