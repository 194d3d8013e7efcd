"""The choice of one candidate a site: a multiple-choice knapsack, solved exactly by HiGHS.

minimize   sum of squared relative weight errors
subject to sum of params <= budget, sum of MACs <= budget, one candidate a site
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from kronexport.backends.profile import TargetProfile
from kronexport.errors import GoalError
from kronexport.factorize.scan import ErrorScan
from kronexport.lower.forms import DENSE
from kronexport.plan.candidates import Candidate, all_candidates
from kronexport.plan.goals import Goal, budget, check_reachable
from kronexport.records import Plan, ProgressCallback, Site, SitePlan, Survey

MILLISECONDS = 1e3
"""In a second: goals on latency are in milliseconds."""


def make_plan(
    survey: Survey,
    scan: ErrorScan,
    goals: Sequence[Goal],
    profile: TargetProfile,
    progress: ProgressCallback,
) -> Plan:
    """The plan of least weight error that meets every goal on params and MACs, and by estimate those on latency.

    Other goals are judged afterwards. Structures that the target's roofline puts above dense in time are used only
    where the goals cannot be met without them.

    Args:
        survey: sites, and the whole network's params and MACs.
        scan: weight errors of the sites.
        goals: those on params and macs bound the choice.
        profile: whose roofline ranks the forms.
        progress: told (stage, done, total) site by site.

    Raises:
        GoalError: no choice meets the goals; the message says the least that is reachable.
    """
    candidates = all_candidates(survey.sites, scan, profile, progress)
    check_reachable(goals, survey, {name: _least(survey, candidates, name) for name in ("params", "macs")})
    limits = {name: budget(goals, name, getattr(survey, name)) - _fixed(survey, name) for name in ("params", "macs")}
    limits["seconds"] = _time_limit(goals, candidates)
    paying = [[candidate for candidate in options if candidate.pays] for options in candidates]
    try:
        chosen = solve(paying, limits)
    except GoalError:
        chosen = solve(candidates, limits)
    return Plan(profile.name, tuple(map(_site_plan, survey.sites, chosen)), "roofline")


def _time_limit(goals: Sequence[Goal], candidates: Sequence[Sequence[Candidate]]) -> float:
    """Estimated seconds of all sites that the goals on latency allow, and never less than can be reached.

    The estimate only steers the plan: whether a goal on latency is met, measurement says. Without one, time is not
    bounded. The first candidate of each site is the dense one.
    """
    dense = sum(options[0].seconds for options in candidates)
    limits = [
        goal.number * (dense if goal.scale is None else goal.scale / MILLISECONDS)
        for goal in goals
        if goal.name == "latency"
    ]
    least = sum(min(candidate.seconds for candidate in options) for options in candidates)
    return max(min(limits, default=sum(max(c.seconds for c in options) for options in candidates)), least)


def dense_plan(survey: Survey, profile: TargetProfile) -> Plan:
    """The plan that changes nothing."""
    choices = (SitePlan(site.name, None, DENSE, site.params, site.macs, 0.0) for site in survey.sites)
    return Plan(profile.name, tuple(choices), "roofline")


def _site_plan(site: Site, pick: Candidate) -> SitePlan:
    rel_error = float(np.sqrt(pick.squared_error))
    return SitePlan(site.name, pick.structure, pick.lowering, pick.params, pick.macs, rel_error)


def _fixed(survey: Survey, name: str) -> int:
    """Params or MACs of all that is no site."""
    return int(getattr(survey, name) - sum(getattr(site, name) for site in survey.sites))


def _least(survey: Survey, candidates: Sequence[Sequence[Candidate]], name: str) -> int:
    return int(_fixed(survey, name) + sum(min(getattr(c, name) for c in options) for options in candidates))


def solve(candidates: Sequence[Sequence[Candidate]], limits: Mapping[str, float]) -> list[Candidate]:
    """One candidate a site, of least total squared error with every sum within ``limits`` (params, macs, seconds).

    Raises:
        GoalError: no combination is within all limits.
    """
    flat = [candidate for options in candidates for candidate in options]
    site_of = np.repeat(np.arange(len(candidates)), [len(options) for options in candidates])
    one_each = sparse.csr_array((np.ones(len(flat)), (site_of, np.arange(len(flat)))))
    costs = np.array([[getattr(candidate, name) for candidate in flat] for name in limits], dtype=np.float64)
    # both rows are scaled to 1 so that the solver's feasibility tolerance means the same for each
    bounds = np.array(list(limits.values()), dtype=np.float64)
    with _stdout_kept_clean():
        result = milp(
            c=np.array([candidate.squared_error for candidate in flat]),
            integrality=np.ones(len(flat), dtype=np.int64),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one_each, 1, 1),
                LinearConstraint(costs / bounds[:, None], -np.inf, 1),
            ],
        )
    if result.x is None:
        raise GoalError(
            f"--goal: the goals can each be met, but not together; loosen one of them (solver: {result.message})"
        )
    return [flat[index] for index in np.flatnonzero(result.x > 0.5)]  # noqa: PLR2004  a binary, up to rounding


@contextmanager
def _stdout_kept_clean() -> Iterator[None]:
    """Send what C code prints on stdout to stderr: HiGHS has debug lines that its log settings do not silence."""
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
