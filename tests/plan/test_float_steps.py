"""Convs stay in float where the layer is faster so, and nowhere else."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from kronexport.factorize.gkpd import gkpd_structure
from kronexport.lower.forms import DENSE
from kronexport.measure.costs import FormTimes
from kronexport.measure.micro import Trial
from kronexport.plan.float_steps import with_float_steps
from kronexport.records import Plan, SitePlan
from tests.plan.samples import site

SITES = site("dense", 16, 16), site("pair", 16, 16)
PAIR = gkpd_structure((16, 1, 1, 1), (1, 16, 3, 3), 2)
PLAN = Plan(
    "cpu",
    (SitePlan("dense", None, DENSE, 1, 1, 0.0), SitePlan("pair", PAIR, "grouped-2-1", 1, 1, 0.1)),
    "measured",
)


@pytest.mark.parametrize(
    ("fast", "expected"),
    [((), ((), ())), ((1,), ((), (1,))), ((0,), ((0,), (0,))), ((0, 1), ((), (0, 1)))],
    ids=str,
)
def test_the_fastest_set_of_convs_stays_in_float(fast: tuple[int, ...], expected: tuple[tuple[int, ...], ...]) -> None:
    """Every set is timed once; a dense layer has one Conv."""
    asked: list[Trial] = []

    def clock(trials: Sequence[Trial]) -> FormTimes:
        asked.extend(trials)
        return FormTimes({trial: 1.0 if trial.float_steps == fast else 2.0 for trial in trials}, {})

    found = with_float_steps(PLAN, SITES, clock)
    assert tuple(choice.float_steps for choice in found.sites) == expected
    assert found.forms == PLAN.forms
    assert len(asked) == len(set(asked)) == 2 + 4


def test_a_layer_with_convs_in_float_loses_the_time_that_it_took_without() -> None:
    """The other one, all in int8, keeps its own."""
    timed = replace(PLAN, sites=tuple(replace(one, dense_seconds=3.0, seconds=2.0) for one in PLAN.sites))
    found = with_float_steps(
        timed, SITES, lambda trials: FormTimes({one: 1.0 if one.float_steps == (1,) else 2.0 for one in trials}, {})
    )
    assert [(one.dense_seconds, one.seconds) for one in found.sites] == [(3.0, 2.0), (None, None)]


def test_what_could_not_be_timed_is_quantized() -> None:
    found = with_float_steps(PLAN, SITES, lambda trials: FormTimes({}, dict.fromkeys(trials, "why")))
    assert found.float_steps == {}
