from dataclasses import replace

import pytest

from kronexport.records import Check, Speedup
from kronexport.ship.report_view import check_status, flatten, headline, layer_speedup, number
from tests.ship.samples import LAYER, target_report, unmeasured_target


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


def test_a_layer_is_so_many_times_as_fast() -> None:
    assert layer_speedup(replace(LAYER, dense_us=30.0, us=20.0)) == 1.5
    assert layer_speedup(LAYER) is None


@pytest.mark.parametrize(
    ("speedup", "start"),
    [
        (Speedup(0.5, (0.4, 0.6), "slower"), "0.50x as fast as dense: 0.500x the parameters"),
        (Speedup(1.01, (0.9, 1.1), "within noise"), "As fast as dense, within the noise: "),
        (None, "Speed not measured: "),
    ],
)
def test_the_headline_is_one_sentence(speedup: Speedup | None, start: str) -> None:
    """Whatever became of the speed; it ends in the accuracy."""
    text = headline(target_report(speedup=speedup))
    assert text.startswith(start)
    assert text.endswith("accuracy 91.25 to 90.75.")
    assert headline(unmeasured_target()).endswith("accuracy not measured.")
