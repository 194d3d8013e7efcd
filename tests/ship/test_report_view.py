from dataclasses import replace

import pytest

from kronexport.records import Check
from kronexport.ship.report_view import Dot, check_status, flatten, front, number
from tests.ship.samples import PARETO, target_report


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (269722, "269,722"), (1083412.0, "1,083,412"), (0.7656, "0.7656"), (2e-7, "2e-07"), (0, "0")],
)
def test_figures_are_shown_in_full(value: float | None, text: str) -> None:
    assert number(value) == text


def test_nested_facts_are_dotted_and_long_lists_only_counted() -> None:
    facts = {"cpu": "A", "clocks": {"governor": None, "mhz": [1, 2]}, "samples": list(range(9))}
    assert list(flatten(facts)) == [
        ("cpu", "A"),
        ("clocks.governor", "unknown"),
        ("clocks.mhz", "[1, 2]"),
        ("samples", "9 values"),
    ]


@pytest.mark.parametrize(
    ("check", "status"),
    [
        (Check("factorized", "dense", 0.5, 0.1, None, None), "approximation"),
        (Check("compiled", "simplified", None, None, 1e-5, None), "not run"),
        (Check("lowered", "portable", 0.0, 0.0, 1e-5, passed=True), "passed"),
        (Check("lowered", "portable", 9.0, 0.9, 1e-5, passed=False), "failed"),
    ],
)
def test_each_check_has_a_status_in_words(check: Check, status: str) -> None:
    assert check_status(check) == status


def test_the_front_is_drawn_by_time_where_there_is_one() -> None:
    """Percent of dense across, of the largest error up; by MACs where nothing was timed."""
    drawn = front(target_report())
    assert drawn is not None
    assert drawn.label == "time of these layers"
    assert drawn.dots == (Dot(100, 0, chosen=False), Dot(80, 25, chosen=True), Dot(30, 100, chosen=False))
    untimed = front(target_report(pareto=tuple(replace(point, latency=None) for point in PARETO)))
    assert untimed is not None
    assert untimed.label == "MACs"
    assert [dot.across for dot in untimed.dots] == [100, 62.5, 25]


def test_where_there_was_nothing_to_choose_nothing_is_drawn() -> None:
    assert front(target_report(pareto=())) is None
    alone = front(target_report(pareto=PARETO[:1]))
    assert alone is not None
    assert alone.dots == (Dot(100, 0, chosen=False),)
