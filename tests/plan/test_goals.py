"""Goals: what is understood, what is refused, and how each is judged."""

from dataclasses import replace

import pytest

from kronexport.errors import GoalError, UserInputError
from kronexport.plan.goals import DEFAULT_GOALS, budget, check_reachable, judge, parse_goal
from kronexport.records import LatencyStats, ModelFigures, Speedup, Survey


def stats(p50: float) -> LatencyStats:
    return LatencyStats(10, p50, p50, 0.0, p50, p50, p50, p50)


DENSE = ModelFigures(1000, 8000, 4000, stats(2.0), 600, None, 90.0)
SMALL = ModelFigures(250, 2000, 1000, stats(1.0), 300, None, 88.5)
TWICE = Speedup(2.0, (1.9, 2.1), "faster")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("params<=0.5", 0.25),
        ("macs<=0.5x", 0.25),
        ("size <= 2 kB", 1.0),
        ("memory<=1KiB", 300 / 1024),
        ("latency<=0.6", 0.5),
        ("latency<=1.5ms", 1.0),
        ("latency<=1500us", 1000.0),
        ("accuracy_drop<=2", 1.5),
        ("params<=1k", 0.25),
    ],
)
def test_a_met_goal_reports_its_value_in_its_own_unit(text: str, value: float) -> None:
    """Ratios to dense without a unit, absolute with one."""
    result = judge(parse_goal(text), DENSE, SMALL, TWICE)
    assert result.expr == text
    assert result.value == pytest.approx(value)
    assert result.met is True


def test_a_missed_goal_is_not_met() -> None:
    """The value is reported all the same."""
    result = judge(parse_goal("params<=0.2"), DENSE, SMALL, TWICE)
    assert (result.value, result.met) == (0.25, False)


def test_a_drop_of_just_as_much_as_is_allowed_meets_the_goal() -> None:
    """0.9263 - 0.9163 is more than 0.01 in binary."""
    dense, small = replace(DENSE, accuracy=0.9263), replace(SMALL, accuracy=0.9163)
    result = judge(parse_goal("accuracy_drop<=0.01"), dense, small, TWICE)
    assert (result.value, result.met) == (0.01, True)


@pytest.mark.parametrize("text", ["latency<=0.5", "latency<=1ms", "memory<=0.5", "accuracy_drop<=1"])
def test_what_was_not_measured_is_neither_met_nor_missed(text: str) -> None:
    """Value and met are None where a figure is missing."""
    unknown = ModelFigures(250, 2000, 1000)
    result = judge(parse_goal(text), DENSE, unknown, None)
    assert (result.value, result.met) == (None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("params<0.5", "expected NAME<=NUMBER"),
        ("faster", "expected NAME<=NUMBER"),
        ("latancy<=0.5", "did you mean 'latency'"),
        ("latency<=5parsec", "unknown unit 'parsec'"),
        ("accuracy_drop<=1x", "accuracy_drop takes no unit, got 'x'"),
        ("params<=0", "must be above 0"),
        ("params<=1.2.3", "is not a number"),
    ],
)
def test_a_goal_that_cannot_be_read_is_refused(text: str, message: str) -> None:
    """The error repeats the goal and says what was expected."""
    with pytest.raises(UserInputError, match=message):
        parse_goal(text)


def test_the_tightest_goal_is_the_budget() -> None:
    """Absolute and relative goals on one figure are compared in elements."""
    goals = [parse_goal("params<=0.5"), parse_goal("params<=0.3k"), parse_goal("params<=400k")]
    assert budget(goals[:1], "params", 1000) == 500
    assert budget(goals, "params", 1000) == 300
    assert budget([], "params", 1000) == 1000


def test_the_default_goal_out_of_reach_says_that_it_is_the_default() -> None:
    """Nobody typed it."""
    goals = list(map(parse_goal, DEFAULT_GOALS))
    with pytest.raises(GoalError, match=r"give --goal macs<=0\.81 \(without any it is macs<=0\.5\), or --include"):
        check_reachable(goals, Survey((), (), 1000, 8000), {"params": 200, "macs": 6401, "weights": 250})


def test_an_unreachable_goal_says_what_is_reachable() -> None:
    """GoalError (exit 5) with the least that any plan reaches."""
    survey = Survey((), (), 1000, 8000)
    with pytest.raises(GoalError, match=r"params <= 100 .* the least .* is 200 \(0.200\)"):
        check_reachable([parse_goal("params<=0.1")], survey, {"params": 200, "macs": 100, "weights": 250})
    for text, remedy in (("params<=0.1", r"params<=0\.21, or"), ("macs<=0.01", r"macs<=0\.02, or")):
        with pytest.raises(GoalError, match=rf"; give --goal {remedy} --include more layers"):
            check_reachable([parse_goal(text)], survey, {"params": 201, "macs": 100, "weights": 250})
    with pytest.raises(GoalError, match=r"allow is 200 \(0\.200\)$"):
        check_reachable([parse_goal("params<=0.1k")], survey, {"params": 200, "macs": 100, "weights": 250})
    least = {"params": 1, "macs": 1, "weights": 250}
    check_reachable([parse_goal("size<=0.01"), parse_goal("size<=1kB")], survey, least)
    with pytest.raises(GoalError, match=r"size<=600B cannot be met: the least .* is 1.67 times that"):
        check_reachable([parse_goal("size<=1kB"), parse_goal("size<=600B")], survey, least)
