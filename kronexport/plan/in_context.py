"""Goals on what only the whole network shows: plans are rehearsed and made again until they are met.

The solver bounds sums over layers. A goal on latency or memory is the network's, of which layers alone say only a part,
so each such goal has a knob, the sum over layers that moves it, and the knob is turned until the goal is just met:

    goal      knob (as a share of dense's sum)
    latency   seconds of the layers, each timed alone
    memory    elements of the stored weights
    size      the same; of a small network nodes and names are a part of the file that counts
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from kronexport.errors import KronexportError
from kronexport.plan.accuracy import planned_error
from kronexport.plan.choose import GOALS_ALONE, Steering
from kronexport.plan.goals import Goal, judge
from kronexport.plan.rehearsal import Rehearsal, Rehearsed
from kronexport.records import ModelFigures, Plan, Speedup

log = logging.getLogger("kronexport")

KNOBS: Final = {"latency": "seconds", "memory": "weights", "size": "weights"}
"""Goal name -> the field of ``Candidate`` whose sum is bounded for its sake."""


@dataclass(frozen=True, slots=True)
class Aim:
    """Parts of what a goal allows: where a plan should come out, and from where to where it is good enough to stop."""

    at: float
    low: float
    high: float


TIMED: Final = Aim(0.98, 0.96, 0.99)
"""The finished network is measured once more, and that differs by a percent or two."""

COUNTED: Final = Aim(0.997, 0.98, 0.999)
"""The finished file differs from the rehearsed one by what is simplified, and by the names of its values."""

MOST_RESERVE: Final = 1.05
"""Of a latency, for the noise of its rehearsal: a machine too busy to tell should not cost all accuracy."""

TRIES: Final = 6
"""Most plans that are rehearsed."""
TURNS: Final = 12
"""Most times that the solver is asked: it may answer with a plan that was rehearsed before."""
LEAST_SHARE: Final = 0.01

OF_THE_NETWORK: Final = ("latency", "size", "memory")
"""Goals of which only a rehearsal says whether a plan meets them."""

PlanAt = Callable[[Steering], Plan]
"""Makes a plan by the goals and this."""


def tuned_plan(plan_at: PlanAt, goals: Sequence[Goal], rehearsal: Rehearsal) -> Plan:
    """The plan of least error that meets the goals on latency, memory and size as a network; the nearest if none does.

    Raises:
        GoalError: as ``plan_at`` does at the first try.
    """
    dials = [_Dial(name, [goal for goal in goals if goal.name == name]) for name in KNOBS]
    dials = [dial for dial in dials if dial.goals]
    if not dials:
        return plan_at(GOALS_ALONE)
    tried: dict[Plan, Rehearsed] = {}
    reached: dict[Plan, float] = {}
    for _ in range(TURNS):
        shares, before = _shares(dials), len(tried)
        plan = plan_at(Steering(shares))
        found = _tried(plan, tried, rehearsal, memory=any(dial.name == "memory" for dial in dials))
        if found is None or (len(tried) == before and reached[plan] <= 1):  # nothing between what meets and what misses
            break
        for dial in dials:
            dial.learn(found, shares[dial.knob])
        reached[plan] = max(dial.reached or 0.0 for dial in dials)
        for dial in dials:
            dial.turn()
        if _shares(dials) == shares:
            break
    met = [plan for plan in tried if reached[plan] <= 1]
    return min(met, key=planned_error) if met else min(tried, key=lambda plan: reached[plan])


def _tried(plan: Plan, tried: dict[Plan, Rehearsed], rehearsal: Rehearsal, *, memory: bool) -> Rehearsed | None:
    """What came of ``plan``, from now on among ``tried``; None: there were enough of them, or it cannot be rehearsed.

    Raises:
        KronexportError: as ``against_dense`` at the first plan.
    """
    if plan in tried:
        return tried[plan]
    if len(tried) == TRIES:
        return None
    rehearsal.progress("rehearse", len(tried), TRIES)
    try:
        tried[plan] = _cautious(rehearsal.against_dense(plan, memory=memory))
    except KronexportError as error:
        if not tried or type(error) is not KronexportError:  # the user's to mend
            raise
        log.warning("the plan is the best of %d that were rehearsed, for the next could not be: %s", len(tried), error)
        return None
    return tried[plan]


def _shares(dials: "Sequence[_Dial]") -> dict[str, float]:
    """Of each knob the share of the tightest dial."""
    return {knob: min(dial.share for dial in dials if dial.knob == knob) for knob in {dial.knob for dial in dials}}


def goals_met(plan: Plan, goals: Sequence[Goal], rehearsal: Rehearsal, dense: Plan | None = None) -> list[bool]:
    """Of each goal ``OF_THE_NETWORK``, whether the rehearsed plan meets it or it could not be measured.

    ``dense`` as for ``Rehearsal.against_dense``.
    """
    wanted = [goal for goal in goals if goal.name in OF_THE_NETWORK]
    if not wanted:
        return []
    memory = any(goal.name == "memory" for goal in wanted)
    found = _cautious(rehearsal.against_dense(plan, memory=memory, dense=dense))
    return [judge(goal, found.dense, found.planned, found.speedup).met is not False for goal in wanted]


def _cautious(rehearsed: Rehearsed) -> Rehearsed:
    """The planned network's latency at the slow end of its 95 % interval.

    The finished network is timed once more: a goal that the median just meets would be missed then every other time,
    and of several plans the one that luck made look fast would be taken.
    """
    speedup, latency = rehearsed.speedup, rehearsed.planned.latency_ms
    reserve = min(speedup.median / speedup.ci95[0], MOST_RESERVE)
    slow = None if latency is None else replace(latency, p50=latency.p50 * reserve)
    return replace(
        rehearsed,
        planned=replace(rehearsed.planned, latency_ms=slow),
        speedup=replace(speedup, median=speedup.median / reserve),
    )


@dataclass(slots=True)
class _Dial:
    """The goals ``name``: ``share`` is where their knob should stand, ``points`` what came of it.

    A point is share -> value over what the goals allow; share 1 is dense. ``reached`` is that of the last try, None
    where it cannot be measured.
    """

    name: str
    goals: list[Goal]
    points: dict[float, float] = field(default_factory=dict, init=False)
    reached: float | None = field(default=None, init=False)
    share: float = field(init=False)

    @property
    def knob(self) -> str:
        return KNOBS[self.name]

    @property
    def aim(self) -> Aim:
        return COUNTED if self.name == "size" else TIMED

    def __post_init__(self) -> None:
        self.share = min([1.0, *(self.aim.at * goal.number for goal in self.goals if goal.scale is None)])

    @property
    def is_settled(self) -> bool:
        return self.reached is None or self.aim.low <= self.reached <= self.aim.high

    def learn(self, rehearsed: Rehearsed, share: float) -> None:
        """Note what a share of the knob led to, and where dense stands."""
        dense = _excess(self.goals, rehearsed.dense, rehearsed.dense, _SAME)
        self.reached = _excess(self.goals, rehearsed.dense, rehearsed.planned, rehearsed.speedup)
        if dense is not None and self.reached is not None:
            self.points |= {1.0: dense, share: self.reached}

    def turn(self) -> None:
        """Go to where the line through the two points nearest to the aim crosses it, but not past other points.

        Dense is left out where there are two more: the first layer that is factorized may change much at once.
        """
        if self.is_settled:
            return
        aim = self.aim.at
        above = [share for share, reached in self.points.items() if reached > aim]
        if not above:  # dense meets the goals too
            self.share = 1.0
            return
        if len(self.points) == 1:  # an absolute goal begins with dense
            self.share = aim / self.points[1.0]
            return
        below = [share for share, reached in self.points.items() if reached <= aim]
        lower, upper = max(below, default=min(above) / 2), min(above)
        tried = [share for share in self.points if share < 1 or len(self.points) == 2]  # noqa: PLR2004  a line takes two
        near, far = sorted(tried, key=lambda share: abs(self.points[share] - aim))[:2]
        rise = (self.points[far] - self.points[near]) / (far - near)
        share = near + (aim - self.points[near]) / rise if rise > 0 else lower
        if below and not lower < share < upper:
            share = (lower + upper) / 2
        self.share = max(share, lower, LEAST_SHARE)


def _excess(goals: Sequence[Goal], dense: ModelFigures, network: ModelFigures, speedup: Speedup) -> float | None:
    """The value of the goal that is furthest from met, as a part of what it allows; None where none is measured."""
    values = [(judge(goal, dense, network, speedup).value, goal.number) for goal in goals]
    return max((value / number for value, number in values if value is not None), default=None)


_SAME = Speedup(1.0, (1.0, 1.0), "within noise")
"""Of dense against itself."""
