"""Which boards are equal, and what becomes of the times of those that are not quite."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronexport.farm.calibration import (
    Limits,
    difference,
    factor_of,
    has_drifted,
    identity,
    reference_trial,
    scaled,
    unit_of,
)
from kronexport.measure.work import work_of

LIMITS = Limits(same=0.03, most=0.25, drift=0.15)
ENVIRONMENT: dict[str, Any] = {"cpu_model": "a", "cpu_features": ["avx2"], "machine": "x86_64", "runtime_version": "1"}


@pytest.mark.parametrize(
    ("reference", "expected"),
    [(1.0, 1.0), (1.029, 1.0), (0.971, 1.0), (1.1, 1 / 1.1), (0.8, 1.25), (1.26, None), (0.74, None)],
)
def test_a_board_is_equal_scaled_or_set_aside(reference: float, expected: float | None) -> None:
    assert factor_of(reference, 1.0, LIMITS) == expected


@given(unit=st.floats(1e-3, 1e3), apart=st.floats(0.76, 1.24))
def test_scaling_brings_the_reference_to_the_unit(unit: float, apart: float) -> None:
    """Within what counts as equal."""
    factor = factor_of(unit * apart, unit, LIMITS)
    assert factor is not None
    assert factor * unit * apart == pytest.approx(unit, rel=LIMITS.same * 1.001)


def test_the_unit_is_the_median_board_and_not_the_odd_one() -> None:
    assert unit_of({"a": 1.0, "b": 9.0, "c": 1.1}, None) == 1.1
    assert unit_of({"a": 1.0, "b": 2.0}, None) == 1.0


def test_an_earlier_plans_unit_is_kept() -> None:
    """What was timed then has to fit to what is timed now."""
    assert unit_of({"a": 1.0, "b": 1.1}, 1.2) == 1.2
    assert unit_of({"a": 1.0, "b": 1.1}, 3.0) == 3.0


@pytest.mark.parametrize(("now", "drifts"), [(1.0, False), (1.14, False), (0.86, False), (1.16, True), (0.84, True)])
def test_a_board_drifts_when_its_own_reference_changes(now: float, drifts: bool) -> None:  # noqa: FBT001  expected
    assert has_drifted(now, 1.0, LIMITS) is drifts


def test_boards_are_told_apart_by_what_the_store_tells_times_apart_by() -> None:
    """Not by what changes all the time, such as clocks."""
    assert identity(ENVIRONMENT) == identity({**ENVIRONMENT, "clocks_mhz": [1.0], "board": "mine"})
    other = {**ENVIRONMENT, "power_mode": "15W"}
    assert identity(ENVIRONMENT) != identity(other)
    assert difference(other, ENVIRONMENT) == "power_mode 15W, not None"


def test_times_are_scaled_and_ratios_are_not() -> None:
    model = {
        "name": "a",
        "latency_ms": {"n": 3, "min": 1.0, "mean": 2.0},
        "samples_ms": [[1.0, 2.0], [3.0]],
        "floor_ms": 1.0,
    }
    result = {"models": [model], "speedups": {"a": {"median": 1.5}}}
    found = scaled(result, 0.5)
    assert found["models"] == [
        {
            "name": "a",
            "latency_ms": {"n": 3, "min": 0.5, "mean": 1.0},
            "samples_ms": [[0.5, 1.0], [1.5]],
            "floor_ms": 0.5,
        }
    ]
    assert found["speedups"] == result["speedups"]
    assert scaled(result, 1.0) == result
    assert model["floor_ms"] == 1.0


def test_the_reference_is_a_layer_that_takes_a_core_some_time() -> None:
    trial = reference_trial()
    assert trial.input.shape == (1, 64, 28, 28)
    assert trial.form.macs == 28 * 28 * 64 * 64 * 9
    assert work_of(trial.form, 1).moved > 0
