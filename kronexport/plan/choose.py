"""The choice of one candidate a site: a multiple-choice knapsack, solved exactly by HiGHS.

minimize   sum of cubed relative weight errors (docs/decisions/0004)
subject to sums of params, MACs, stored weights and estimated seconds within what the goals allow, one candidate a site
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from kronexport.backends.profile import TargetProfile
from kronexport.errors import GoalError
from kronexport.factorize.scan import ErrorScan
from kronexport.files import stdout_of_c_dropped
from kronexport.lower.forms import DENSE
from kronexport.plan.candidates import Candidate, all_candidates
from kronexport.plan.cost_model import roofline_model
from kronexport.plan.goals import DEFAULT_GOALS, Goal, budget, check_reachable, parse_goal, weights_budget
from kronexport.records import Basis, Plan, ProgressCallback, Site, SitePlan, Survey

MILLISECONDS = 1e3
"""In a second: goals on latency are in milliseconds."""

FEASIBILITY_TOLERANCE = 1e-6
"""HiGHS's own, by which a sum may pass its limit."""

LEAST_TOTAL = 0.01
"""Part of the largest coefficient below which a total is minimized again, without the candidates that alone are above
it: HiGHS takes totals for equal that differ by 1e-6 of the largest."""


@dataclass(frozen=True, slots=True)
class Steering:
    """What the planner asks beside the goals, by what it learnt of the whole network.

    ``shares``: what the sum of ``seconds`` or ``weights`` may be, as a part of dense's, in place of what goals say.
    ``error``: what the sum of cubed errors may be; then the fastest choice is wanted.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    error: float | None = None


GOALS_ALONE = Steering()

_BOUNDING = ("params", "macs", "size", "latency")
"""Goals by which choices are bounded."""


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
    candidates = all_candidates(survey.sites, scan, roofline_model(profile), progress)
    return plan_of(survey, choose(survey, candidates, goals), profile, "roofline")


def choose(
    survey: Survey,
    candidates: Sequence[Sequence[Candidate]],
    goals: Sequence[Goal],
    slack: float = 0.0,
    steering: Steering = GOALS_ALONE,
) -> list[Candidate]:
    """One of each site's candidates: as ``make_plan``, whatever their seconds rest on.

    Args:
        survey: sites, and the whole network's params and MACs.
        candidates: of each site, dense first.
        goals: as for ``make_plan``.
        slack: of the choices whose error is at most this part above the least one, the fastest is taken.
        steering: what the sums may be beside what goals say.

    Raises:
        GoalError: no choice meets the goals on params, MACs and size; the message says the least that is reachable.
    """
    least = {name: _least(survey, candidates, name) for name in ("params", "macs")}
    check_reachable(goals, survey, least | {"weights": int(_sum_of_least(candidates, "weights"))})
    limits = _limits(survey, goals, candidates, steering)
    paying = [[candidate for candidate in options if candidate.pays] for options in candidates]
    if steering.error is not None:
        return solve(paying, {**limits, "cubed_error": steering.error}, minimize="seconds")
    for options in (paying, candidates):
        with suppress(GoalError):
            best = solve(options, limits)
            return _fastest_near(options, limits, best, slack) if slack else best
    # what steers is no goal: whether one on latency, memory or size is met, the network says (in_context.py)
    firm = _goal_limits(survey, goals, candidates, steering)
    for name in ("seconds", *steering.shares):
        firm.pop(name, None)
    steered = [name for name in ("seconds", *steering.shares) if name in limits]
    try:
        return solve(candidates, firm, minimize=steered[0] if steered else "cubed_error")
    except GoalError as error:
        raise GoalError(_reachable_together(survey, candidates, firm)) from error


def dense_plan(survey: Survey, profile: TargetProfile, reason: str | None = None) -> Plan:
    """The plan that changes nothing; ``reason`` says why."""
    return Plan(profile.name, tuple(left_dense(site, reason) for site in survey.sites), "roofline")


def left_dense(site: Site, reason: str | None = None) -> SitePlan:
    """The site as it is; ``reason`` says why."""
    return SitePlan(site.name, None, DENSE, site.params, site.macs, 0.0, reason=reason)


def _reachable_together(survey: Survey, candidates: Sequence[Sequence[Candidate]], limits: Mapping[str, float]) -> str:
    """Of each figure the least that the goals on the others leave; where no two can be met, that of each alone."""
    reached = []
    for name in limits:
        others = {other: limit for other, limit in limits.items() if other != name}
        with suppress(GoalError):
            least = sum(getattr(pick, name) for pick in solve(candidates, others, minimize=name))
            reached.append(_reached(survey, name, least))
    if reached:
        return (
            "--goal: the goals can each be met, but not together; with all others as they are, the least of each is "
            f"{', '.join(reached)}; loosen one of them"
        )
    alone = [_reached(survey, name, _sum_of_least(candidates, name)) for name in limits]
    return (
        "--goal: the goals can each be met, but no two of them together; where one is given alone, the least of each "
        f"is {', '.join(alone)}; loosen two of them, or leave two out"
    )


def _reached(survey: Survey, name: str, least: float) -> str:
    """What the sites' sum of a figure makes of the whole network."""
    whole = "macs" if name == "macs" else "params"
    least += _fixed(survey, whole)
    share = f"{least / getattr(survey, whole):.3f} of dense"
    return f"size {share}" if name == "weights" else f"{name} {least:.4g} ({share})"


def _fastest_near(
    options: Sequence[Sequence[Candidate]], limits: Mapping[str, float], best: list[Candidate], slack: float
) -> list[Candidate]:
    """The fastest choice within ``limits`` and ``slack`` times the error of ``best``, the choice of least error."""
    most = (1 + slack) * sum(candidate.cubed_error for candidate in best)
    # what alone has more error is left out first, so that no number of the solver's is far above its limit
    near = [[candidate for candidate in site if candidate.cubed_error <= most] for site in options]
    bounds: Mapping[str, float] = {**limits, "cubed_error": most} if most else limits
    try:
        return solve(near, bounds, minimize="seconds")
    except GoalError:  # by rounding: ``best`` is within all limits
        return best


def plan_of(survey: Survey, chosen: Sequence[Candidate], profile: TargetProfile, basis: Basis) -> Plan:
    """The plan that takes ``chosen``, one candidate a site."""
    return Plan(profile.name, tuple(map(_site_plan, survey.sites, chosen)), basis)


def _limits(
    survey: Survey, goals: Sequence[Goal], candidates: Sequence[Sequence[Candidate]], steering: Steering
) -> dict[str, float]:
    """What the sites together may need of each figure that a goal or the steering bounds."""
    return _goal_limits(survey, goals, candidates, steering) | _limits_by_share(candidates, steering.shares)


def _goal_limits(
    survey: Survey, goals: Sequence[Goal], candidates: Sequence[Sequence[Candidate]], steering: Steering
) -> dict[str, float]:
    """What goals leave the sites together; dense bounds params and MACs in any case.

    Where neither a goal nor the steering bounds anything, the default goal does, as far as the sites can meet it.
    """
    implied = steering == GOALS_ALONE and not any(goal.name in _BOUNDING for goal in goals)
    if implied:
        goals = [parse_goal(text) for text in DEFAULT_GOALS]
    limits: dict[str, float] = {
        "params": budget(goals, "params", survey.params) - _fixed(survey, "params"),
        "macs": budget(goals, "macs", survey.macs) - _fixed(survey, "macs"),
    }
    if implied:
        limits["macs"] = max(limits["macs"], _sum_of_least(candidates, "macs"))
    if any(goal.name == "size" for goal in goals):
        limit = weights_budget(goals, survey.params) - _fixed(survey, "params")
        limits["weights"] = max(limit, _sum_of_least(candidates, "weights"))
    dense_seconds = sum(options[0].seconds for options in candidates)
    times = [
        goal.number * (dense_seconds if goal.scale is None else goal.scale / MILLISECONDS)
        for goal in goals
        if goal.name == "latency"
    ]
    if times:
        limits["seconds"] = max(min(times), _sum_of_least(candidates, "seconds"))
    return limits


def _limits_by_share(candidates: Sequence[Sequence[Candidate]], shares: Mapping[str, float]) -> dict[str, float]:
    dense = {name: sum(getattr(options[0], name) for options in candidates) for name in shares}
    return {name: max(share * dense[name], _sum_of_least(candidates, name)) for name, share in shares.items()}


def _site_plan(site: Site, pick: Candidate) -> SitePlan:
    rel_error = float(np.sqrt(pick.squared_error))
    return SitePlan(site.name, pick.structure, pick.lowering, pick.params, pick.macs, rel_error)


def _fixed(survey: Survey, name: str) -> int:
    """Params or MACs of all that is no site."""
    return int(getattr(survey, name) - sum(getattr(site, name) for site in survey.sites))


def _least(survey: Survey, candidates: Sequence[Sequence[Candidate]], name: str) -> int:
    return int(_fixed(survey, name) + _sum_of_least(candidates, name))


def _sum_of_least(candidates: Sequence[Sequence[Candidate]], name: str) -> float:
    return float(sum(min(getattr(c, name) for c in options) for options in candidates))


def solve(
    candidates: Sequence[Sequence[Candidate]],
    limits: Mapping[str, float],
    minimize: str = "cubed_error",
) -> list[Candidate]:
    """One candidate a site, of the least total of ``minimize``, with every sum within ``limits`` (fields of Candidate).

    Raises:
        GoalError: no combination is within all limits.
    """
    if any(limit <= 0 for limit in limits.values()):
        raise GoalError(f"--goal: no choice is within all limits ({dict(limits)})")
    chosen = _solved(candidates, limits, minimize)
    if any(_total(chosen, name) > limit for name, limit in limits.items()):
        stricter = {name: limit * (1 - 2 * FEASIBILITY_TOLERANCE) for name, limit in limits.items()}
        return solve(candidates, stricter, minimize)
    total = _total(chosen, minimize)
    if total < LEAST_TOTAL * _largest(candidates, minimize):
        near = [[option for option in options if getattr(option, minimize) <= total] for options in candidates]
        with suppress(GoalError):  # by rounding: ``chosen`` is within all limits
            return solve(near, limits, minimize)
    return chosen


def _solved(candidates: Sequence[Sequence[Candidate]], limits: Mapping[str, float], minimize: str) -> list[Candidate]:
    """As ``solve``, up to the solver's tolerances; GoalError where there is no choice even so."""
    flat = [candidate for options in candidates for candidate in options]
    site_of = np.repeat(np.arange(len(candidates)), [len(options) for options in candidates])
    one_each = sparse.csr_array((np.ones(len(flat)), (site_of, np.arange(len(flat)))))
    costs = np.array([[getattr(candidate, name) for candidate in flat] for name in limits], dtype=np.float64)
    # each row is scaled to 1, so that the solver's tolerances mean the same for all
    bounds = np.array(list(limits.values()), dtype=np.float64)
    with stdout_of_c_dropped():  # HiGHS has debug lines that its log settings do not silence
        result = milp(
            c=np.array([getattr(candidate, minimize) for candidate in flat]) / (_largest(candidates, minimize) or 1.0),
            integrality=np.ones(len(flat), dtype=np.int64),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one_each, 1, 1),
                LinearConstraint(costs / bounds[:, None], -np.inf, 1),
            ],
            options={"mip_rel_gap": 0.0},
        )
    if result.x is None:
        raise GoalError(f"--goal: no choice is within all limits (solver: {result.message})")
    return [flat[index] for index in np.flatnonzero(result.x > 0.5)]  # noqa: PLR2004  a binary, up to rounding


def _total(chosen: Sequence[Candidate], name: str) -> float:
    return float(sum(getattr(pick, name) for pick in chosen))


def _largest(candidates: Sequence[Sequence[Candidate]], name: str) -> float:
    return float(max(getattr(option, name) for options in candidates for option in options))
