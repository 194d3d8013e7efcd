"""A goal on accuracy_drop alone: the fastest network that keeps it, found by building several.

No estimate says what an error of the weights does to accuracy, so the network is built and scored, and the error that
plans may have is raised or lowered until the goal is just met.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from kronexport.plan.goals import DEFAULT_GOALS, Goal
from kronexport.records import Plan

BUILDS: Final = 5
"""Most networks that are built for the sake of one goal: each is fitted and scored."""

CLOSE: Final = 1.5
"""Ratio of the least error that was too much to the largest that was not, at which the search ends."""

_STEP: Final = 4.0
"""Factor to the next error where only one side of the goal has been seen."""


def accuracy_alone(goals: Sequence[Goal]) -> float | None:
    """The drop that is allowed, where goals bound nothing else but accuracy; None where they do, or do not at all."""
    if not goals or any(goal.name != "accuracy_drop" for goal in goals):
        return None
    return min(goal.number for goal in goals)


def unscored(plan: Plan) -> Plan:
    """The first plan of such a search, where it is the last as well, with a note that says so."""
    note = (
        f"planned for {' and '.join(DEFAULT_GOALS)}, or the least that there is: what a goal on accuracy alone leaves "
        "is only known once networks are built and scored"
    )
    return replace(plan, notes=(note, *plan.notes))


def planned_error(plan: Plan) -> float:
    """Sum over layers of (||W - W^|| / ||W||)^3, which the solver makes least (docs/decisions/0004)."""
    return math.fsum((choice.rel_error or 0.0) ** 3 for choice in plan.sites)


def next_error(drops: Sequence[tuple[float, float]], allowed: float) -> float | None:
    """The error to plan with next; None where the search is at its end.

    Args:
        drops: (planned error, drop in accuracy) of each network that was built.
        allowed: the goal's drop.
    """
    met = max((error for error, drop in drops if drop <= allowed), default=None)
    missed = min((error for error, drop in drops if drop > allowed), default=None)
    if len(drops) >= BUILDS:
        return None
    if missed is None:
        return None if met is None else met * _STEP
    if met is None:
        return missed / _STEP
    return math.sqrt(met * missed) if missed > CLOSE * met else None
