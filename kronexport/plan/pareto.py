"""The Pareto front beside a plan: what other choices of the same candidates would cost and lose.

A ladder of limits on the sites' seconds, or on MACs where no time is known, from dense down to the least there is. Each
rung is solved exactly, as the plan itself is, whatever the goals are. The plan is among the points.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Literal

from kronexport.errors import GoalError
from kronexport.plan.candidates import Candidate
from kronexport.plan.choose import solve
from kronexport.records import ParetoPoint, Plan, Site, SitePlan, Survey

RUNGS: Final = 9
"""Steps from dense to the least, of equal height."""

_ROUNDING: Final = 1e-9
"""Relative: seconds that are sums of the same numbers in another order are alike."""

Axis = Literal["seconds", "macs"]


def pareto_front(
    survey: Survey,
    plan: Plan,
    candidates: Mapping[str, Sequence[Candidate]],
    timed: Collection[Candidate] = frozenset(),
) -> tuple[ParetoPoint, ...]:
    """The points that no other beats in all of its figures, and the plan itself; the slowest or largest first.

    There are none where the plan holds what is no candidate any more.

    Args:
        survey: sites, and the whole network's params and MACs.
        plan: in all points the sites without candidates are what they are in it.
        candidates: by the name of a site, dense first; those that need more params or MACs than it are none.
        timed: the candidates whose seconds were measured. None: the ladder is one of MACs, and no latency is told.
    """
    free = [choice for choice in plan.sites if choice.site in candidates]
    options = [candidates[choice.site] for choice in free]
    chosen = [pick for choice, among in zip(free, options, strict=True) if (pick := _pick(choice, among))]
    if not chosen or len(chosen) < len(free):
        return ()
    axis: Axis = "seconds" if timed else "macs"
    kept = [choice for choice in plan.sites if choice.site not in candidates]
    network = _Network(survey, kept, [among[0] for among in options], timed)
    mine = replace(network.point(chosen), chosen=True)
    points = map(network.point, _ladder([_leaders(among, axis) for among in options], axis))
    others = {_figures(point): point for point in points if _figures(point) != _figures(mine)}
    front = [point for point in others.values() if not any(_beats(other, point) for other in (*others.values(), mine))]
    return tuple(sorted([*front, mine], key=_figures, reverse=True))


@dataclass(frozen=True, slots=True)
class _Network:
    """What the points are parts of.

    ``kept`` are the sites that are alike in all points; ``dense`` leaves the others as they are.
    """

    survey: Survey
    kept: Sequence[SitePlan]
    dense: Sequence[Candidate]
    timed: Collection[Candidate]

    def point(self, choice: Sequence[Candidate]) -> ParetoPoint:
        """One candidate a free site."""
        measured = [pick in self.timed for pick in choice]
        return ParetoPoint(
            latency=_sum(choice, "seconds") / _sum(self.dense, "seconds") if self.timed else None,
            macs=self._part(choice, "macs"),
            params=self._part(choice, "params"),
            error=(_sum(choice, "cubed_error") / len(choice)) ** (1 / 3),
            basis="measured" if all(measured) else "mixed" if any(measured) else "roofline",
            chosen=False,
        )

    def _part(self, choice: Sequence[Candidate], name: Literal["macs", "params"]) -> float:
        whole = int(getattr(self.survey, name))
        rest = whole - _sum(self.survey.sites, name)
        return (rest + _sum(self.kept, name) + _sum(choice, name)) / whole


def _ladder(candidates: Sequence[Sequence[Candidate]], axis: Axis) -> list[list[Candidate]]:
    """The choice of least error at each rung; both ends need no solver."""
    dense, least = [options[0] for options in candidates], [options[-1] for options in candidates]
    top, bottom = (sum(getattr(pick, axis) for pick in end) for end in (dense, least))
    found = [dense]
    for rung in range(1, RUNGS):
        with suppress(GoalError):  # next to the bottom, by rounding
            found.append(solve(candidates, {axis: top - (top - bottom) * rung / RUNGS}))
    return [*found, least]


def _leaders(options: Sequence[Candidate], axis: Axis) -> list[Candidate]:
    """Dense, then those that need less of ``axis`` than all of less error: the others are on no rung."""
    dense, *others = options
    kept = [dense]
    for option in sorted(others, key=lambda one: (one.squared_error, getattr(one, axis))):
        if getattr(option, axis) < getattr(kept[-1], axis) * (1 - _ROUNDING):
            kept.append(option)
    return kept


def _pick(choice: SitePlan, options: Sequence[Candidate]) -> Candidate | None:
    """The candidate that was planned; None if that was set aside since."""
    wanted = choice.structure, choice.lowering
    return next((option for option in options if (option.structure, option.lowering) == wanted), None)


def _sum(parts: Sequence[Candidate | Site | SitePlan], name: str) -> float:
    return float(sum(getattr(part, name) for part in parts))


def _figures(point: ParetoPoint) -> tuple[float, ...]:
    return point.latency or 0.0, point.macs, point.params, point.error


def _beats(one: ParetoPoint, other: ParetoPoint) -> bool:
    """Whether ``one`` is no worse in any figure and better in some."""
    pairs = list(zip(_figures(one), _figures(other), strict=True))
    return one is not other and all(mine <= its for mine, its in pairs) and any(mine < its for mine, its in pairs)
