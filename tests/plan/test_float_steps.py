"""Convs stay in float where the layer is faster so, and nowhere else."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from torch import nn

from kronexport.factorize.gkpd import gkpd_structure
from kronexport.lower.forms import DENSE
from kronexport.measure.costs import FormTimes
from kronexport.measure.micro import Trial
from kronexport.measure.setting import Setting, Timing
from kronexport.plan.float_steps import with_float_steps
from kronexport.plan.measured import Clock
from kronexport.plan.rehearsal import Rehearsal
from kronexport.records import InputSpec, Plan, SitePlan, Speedup, silent
from tests.plan.samples import site

SITES = site("dense", 16, 16), site("pair", 16, 16)
PAIR = gkpd_structure((16, 1, 1, 1), (1, 16, 3, 3), 2)
PLAN = Plan(
    "cpu",
    (SitePlan("dense", None, DENSE, 1, 1, 0.0), SitePlan("pair", PAIR, "grouped-2-1", 1, 1, 0.1)),
    "measured",
)


NOISE = 0.01


class Doubled(Rehearsal):
    """A double of a network: how much faster it is with the float steps of these layers, those of all together last."""

    def __init__(self, dense: float, pair: float, both: float) -> None:
        super().__init__(nn.Identity(), 18, Setting("onnxruntime", 1, InputSpec("x", (1,))), Timing(), silent)
        self.gains = {("dense",): dense, ("pair",): pair, ("dense", "pair"): both}

    def against(self, plan: Plan, others: Sequence[Plan]) -> list[Speedup]:
        assert plan.float_steps == {}
        gains = [self.gains[tuple(other.float_steps)] for other in others]
        return [Speedup(gain, (gain - NOISE, gain + NOISE), "within noise") for gain in gains]


PAYS = Doubled(1.1, 1.1, 1.2)


def clock_of(*fast: tuple[int, ...], asked: list[Trial] | None = None) -> Clock:
    """Layers are twice as fast with one of these sets in float."""

    def clock(trials: Sequence[Trial]) -> FormTimes:
        if asked is not None:
            asked.extend(trials)
        return FormTimes({trial: 1.0 if trial.float_steps in fast else 2.0 for trial in trials}, {})

    return clock


@pytest.mark.parametrize(
    ("fast", "expected"),
    [((), ((), (0, 1))), ((1,), ((), (1,))), ((0,), ((0,), (0,))), ((0, 1), ((), (0, 1)))],
    ids=str,
)
def test_the_fastest_set_of_convs_stays_in_float(fast: tuple[int, ...], expected: tuple[tuple[int, ...], ...]) -> None:
    """Every set is timed once; a dense layer has one Conv. Where no layer gains alone, all factorized ones may."""
    asked: list[Trial] = []
    found = with_float_steps(PLAN, SITES, clock_of(fast, asked=asked), PAYS)
    assert tuple(choice.float_steps for choice in found.sites) == expected
    assert found.forms == PLAN.forms
    assert len(asked) == len(set(asked)) == 2 + 4


@pytest.mark.parametrize(
    ("gains", "kept"),
    [
        ((1.1, 1.1, 1.2), {"dense", "pair"}),
        ((1.1, 0.9, 1.0), {"dense"}),  # the one that pays
        ((1.1, 0.9, 1.3), {"dense", "pair"}),  # together they pay more
        ((0.9, 0.9, 0.6), set()),  # alone each was faster, the network is not
        ((1.005, 1.005, 1.005), set()),  # within the noise
    ],
)
def test_what_the_network_does_not_gain_by_is_quantized(gains: tuple[float, float, float], kept: set[str]) -> None:
    found = with_float_steps(PLAN, SITES, clock_of((0,)), Doubled(*gains))
    assert set(found.float_steps) == kept


def test_a_layer_with_convs_in_float_loses_the_time_that_it_took_without() -> None:
    """The other one, all in int8, keeps its own."""
    timed = replace(PLAN, sites=tuple(replace(one, dense_seconds=3.0, seconds=2.0) for one in PLAN.sites))
    found = with_float_steps(timed, SITES, clock_of((1,)), PAYS)
    assert [(one.dense_seconds, one.seconds) for one in found.sites] == [(3.0, 2.0), (None, None)]


def test_what_could_not_be_timed_is_quantized() -> None:
    slower = Doubled(1.1, 0.9, 1.2)
    found = with_float_steps(PLAN, SITES, lambda trials: FormTimes({}, dict.fromkeys(trials, "why")), slower)
    assert found.float_steps == {}
