"""Goals: ``NAME<=NUMBER[UNIT]``, what each is measured in, and whether it was met.

A number without a unit, or with ``x``, is a ratio to dense; with a unit it is absolute. ``accuracy_drop`` is
always dense minus compressed, in the evaluator's own units.
"""

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kronexport.errors import GoalError, UserInputError
from kronexport.records import FLOAT_BYTES, GoalResult, ModelFigures, Report, Speedup, Survey

UNITS: dict[str, dict[str, float]] = {
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "params": {"k": 1e3, "M": 1e6, "G": 1e9},
    "macs": {"k": 1e3, "M": 1e6, "G": 1e9},
    "size": {"B": 1, "kB": 1e3, "MB": 1e6, "KiB": 1024, "MiB": 1024**2},
    "memory": {"B": 1, "kB": 1e3, "MB": 1e6, "KiB": 1024, "MiB": 1024**2},
    "accuracy_drop": {},
}
"""Goal name -> unit -> how many of the report's units (ms, elements, bytes) it is."""

FIGURES = {
    "latency": "latency_ms",
    "params": "params",
    "macs": "macs",
    "size": "bytes",
    "memory": "peak_memory_bytes",
    "accuracy_drop": "accuracy",
}
"""Goal name -> the figure of ``ModelFigures`` that decides it."""

DEFAULT_GOALS = ("macs<=0.5",)

_GOAL = re.compile(r"\s*(?P<name>\w+)\s*<=\s*(?P<number>[0-9.]+(?:[eE][-+]?\d+)?)\s*(?P<unit>[A-Za-z]*)\s*")


@dataclass(frozen=True, slots=True)
class Goal:
    """``scale`` is None for a ratio to dense, else the size of the unit in the report's units."""

    expr: str
    name: str
    number: float
    scale: float | None


def parse_goal(text: str) -> Goal:
    """Read one goal.

    Raises:
        UserInputError: the text is no goal, or its name or unit is unknown.
    """
    match = _GOAL.fullmatch(text)
    if match is None:
        raise UserInputError(f"--goal {text!r}: expected NAME<=NUMBER[UNIT], for example latency<=0.5 or params<=90k")
    name, number, unit = match["name"], _number(match["number"], text), match["unit"]
    if name not in UNITS:
        close = difflib.get_close_matches(name, UNITS, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserInputError(f"--goal {text!r}: unknown name {name!r}; {hint}Known: {', '.join(UNITS)}")
    if name == "accuracy_drop":
        if unit:
            raise UserInputError(
                f"--goal {text!r}: {name} takes no unit, got {unit!r}: it is dense minus compressed as the evaluator "
                "counts, so where that is a percentage, accuracy_drop<=1 is one point"
            )
        return Goal(text, name, number, 1.0)
    units = UNITS[name]
    if unit and unit not in {*units, "x"}:
        known = ", ".join(units)
        raise UserInputError(f"--goal {text!r}: unknown unit {unit!r} of {name}; units: {known}; without one: a ratio")
    if number <= 0:
        raise UserInputError(f"--goal {text!r}: the number must be above 0")
    return Goal(text, name, number, units.get(unit))


def for_floats(goal: Goal, weight_bytes: int) -> Goal:
    """A goal on absolute size as one on the same network in fp32, whose weights are what a plan bounds.

    Args:
        goal: any.
        weight_bytes: of one weight in the model that ships.
    """
    if goal.name != "size" or goal.scale is None:
        return goal
    return replace(goal, scale=goal.scale * FLOAT_BYTES / weight_bytes)


def _number(digits: str, text: str) -> float:
    try:
        return float(digits)
    except ValueError as error:
        raise UserInputError(f"--goal {text!r}: {digits!r} is not a number") from error


def budget(goals: Sequence[Goal], name: str, dense: int) -> float:
    """The tightest limit on ``params`` or ``macs`` in elements; the dense network's own where no goal says."""
    limits = [goal.number * (dense if goal.scale is None else goal.scale) for goal in goals if goal.name == name]
    return min([float(dense), *limits])


def weights_budget(goals: Sequence[Goal], dense: int) -> float:
    """The tightest limit of goals on size, in weights of four bytes (``for_floats``); dense's where there is none."""
    return min([float(dense), *(_weights(goal, dense) for goal in goals if goal.name == "size")])


def _weights(goal: Goal, dense: int) -> float:
    """Of a goal on size."""
    return goal.number * (dense if goal.scale is None else goal.scale / FLOAT_BYTES)


def accuracy_drop(dense: float, compressed: float) -> float:
    """As goals count it: a difference of scores, without the rounding error that would miss 0.01 by 9e-18."""
    return round(dense - compressed, 9)


def judge(goal: Goal, dense: ModelFigures, compressed: ModelFigures, speedup: Speedup | None) -> GoalResult:
    """The value reached, in the goal's own unit. Ratio of latency: the median paired ratio; absolute: p50."""
    value = _reached(goal, dense, compressed, speedup)
    return GoalResult(goal.expr, value, None if value is None else value <= goal.number)


def _reached(goal: Goal, dense: ModelFigures, compressed: ModelFigures, speedup: Speedup | None) -> float | None:
    if goal.name == "latency":
        if goal.scale is None:
            return None if speedup is None else 1 / speedup.median
        return None if compressed.latency_ms is None else compressed.latency_ms.p50 / goal.scale
    if goal.name == "accuracy_drop":
        if dense.accuracy is None or compressed.accuracy is None:
            return None
        return accuracy_drop(dense.accuracy, compressed.accuracy)
    field = FIGURES[goal.name]
    reached, reference = getattr(compressed, field), getattr(dense, field)
    if reached is None or reference is None:
        return None
    return float(reached / (reference if goal.scale is None else goal.scale))


def check_reachable(goals: Sequence[Goal], survey: Survey, least: dict[str, int]) -> None:
    """Raise GoalError if a goal on params, macs or size lies below the least that any plan reaches.

    ``least`` is by field of Candidate: "params" and "macs" of the network, "weights" of the sites alone: what else a
    file holds, and what dense's holds, which a ratio is to, only the files say.
    """
    for goal in goals:
        if goal.name == "size" and goal.scale is not None and least["weights"] > _weights(goal, survey.params):
            raise GoalError(
                f"--goal: {goal.expr} cannot be met: the least that the weights of the factorizable convolutions alone "
                f"take is {least['weights'] / _weights(goal, survey.params):.3g} times that"
            )
    for name, dense in (("params", survey.params), ("macs", survey.macs)):
        limit = budget(goals, name, dense)
        if least[name] > limit:
            raise GoalError(
                f"--goal: {name} <= {limit:.4g} ({limit / dense:.3f} of the network's {dense:.4g}) cannot be met: the "
                f"least that the factorizable convolutions allow is {least[name]:.4g} ({least[name] / dense:.3f})"
                f"{_loosened(goals, name, least[name] / dense)}"
            )


def _loosened(goals: Sequence[Goal], name: str, share: float) -> str:
    """What to ask for instead of a ratio that is out of reach, where ``share`` of dense is the least; rounded up."""
    ratios = [goal for goal in goals if goal.name == name and goal.scale is None]
    if not ratios:
        return ""
    default = f" (without any it is {', '.join(DEFAULT_GOALS)})" if ratios[0].expr in DEFAULT_GOALS else ""
    return f"; give --goal {name}<={math.ceil(100 * share) / 100:g}{default}, or --include more layers"


def figure_of(goal: GoalResult) -> str:
    """The figure of ``ModelFigures`` that the goal is decided by."""
    return FIGURES[parse_goal(goal.expr).name]


def missed_goals(report: Report, *, allow_unmeasured: bool) -> list[GoalError]:
    """One error for each target with a goal that was missed, or could not be measured without leave."""
    errors = []
    for name, target in report.targets.items():
        lines = []
        for goal in target.goals:
            if goal.met is False:
                lines.append(f"{name}: goal {goal.expr} missed: the best that was found is {goal.reached}; loosen it")
            elif goal.met is None and not allow_unmeasured:
                reason = target.unmeasured[f"goals.{goal.expr}"]
                lines.append(f"{name}: goal {goal.expr}: {reason}; accept that with --allow-unmeasured")
        if lines:
            errors.append(GoalError("\n".join(lines)))
    return errors
