"""What records say of themselves beside their values."""

import pytest

from kronexport.plan.goals import missed_goals
from kronexport.records import GoalResult
from tests.ship.samples import report


@pytest.mark.parametrize(
    ("expr", "value", "text"),
    [
        ("size<=0.5", 0.500041, "0.50004"),
        ("params<=90k", 90.004, "90.004"),
        ("params <= 90 k", 90.004, "90.004"),
        ("latency<=20000us", 20000.3, "20,000.3"),
        ("latency<=0.5x", 0.7123456, "0.7123"),
        ("macs<=2e6k", 2_500_000.4, "2,500,000"),
        ("accuracy_drop<=0", 1e-9, "1e-09"),
        ("accuracy_drop<=0.1", 0.1 + 2e-17, "0.10000000000000002"),
    ],
)
def test_a_missed_goal_does_not_read_as_one_that_was_reached(expr: str, value: float, text: str) -> None:
    assert GoalResult(expr, value, met=False).reached == text


def test_a_goal_that_was_met_is_shown_in_four_digits_and_one_without_a_value_in_none() -> None:
    assert GoalResult("size<=0.5", 0.499999, met=True).reached == "0.5"
    assert GoalResult("size<=20000kB", 12345.678, met=True).reached == "12,346"
    assert GoalResult("size<=0.5", None, met=None).reached == ""


def test_the_error_of_a_missed_goal_says_by_how_little() -> None:
    (error,) = missed_goals(report(goals=(GoalResult("size<=0.5", 0.500041, met=False),)), allow_unmeasured=False)
    assert "size<=0.5 missed: the best that was found is 0.50004; " in str(error)
