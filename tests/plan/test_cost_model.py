"""The cost model: learns what a device does, keeps the roofline's word on the rest, and is judged out of sample."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from kronexport.backends.profile import load_target
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.lower.forms import generate_forms
from kronexport.measure.work import ConvWork, MeasuredCost, Work, work_of
from kronexport.plan.cost_model import (
    FEWEST_RANKED,
    agreement,
    fitted_model,
    fitted_prices,
    rank_correlation,
    roofline_model,
    validate,
)
from kronexport.plan.features import Features, features_of, roofline_prices
from kronexport.plan.roofline import form_seconds
from kronexport.records import ConvGeometry

PROFILE = load_target("cpu")
PRIOR = roofline_prices(PROFILE)
SLOW_TO_MOVE = PRIOR._replace(full=PRIOR.full / 2, narrow=5 * PRIOR.narrow, relaid=20 * PRIOR.relaid)
"""The prices of a device that the roofline is wrong about."""
STRUCTURES = [
    gkpd_structure((4, 4, 1, 1), (8, 8, 3, 3), 1),
    gkpd_structure((4, 4, 1, 1), (8, 8, 3, 3), 3),
    gkpd_structure((32, 1, 1, 1), (1, 32, 3, 3), 6),
    gkpd_structure((2, 2, 1, 1), (16, 16, 3, 3), 1),
]


def measured(prices: Features, sizes: Sequence[int] = (6, 9, 14, 20)) -> list[MeasuredCost]:
    """Forms of a conv of 32 channels on images of several sizes, on a device with these prices."""
    costs = []
    for size in sizes:
        for structure in STRUCTURES:
            for form in generate_forms(structure, ConvGeometry((3, 3), pads=(1, 1, 1, 1)), (size, size))[:6]:
                work = work_of(form, 1)
                costs.append(MeasuredCost(f"layer {size}", work, features_of(work).dot(prices)))
    return costs


def test_seconds_of_what_was_not_timed_are_those_of_the_device() -> None:
    """Fitted to some sizes of the images, the model predicts another one; the roofline is far off at any scale."""
    fitted = fitted_prices(PROFILE, measured(SLOW_TO_MOVE, (6, 9, 20)))

    def logs(prices: Features) -> list[float]:
        return [np.log(features_of(cost.work).dot(prices) / cost.seconds) for cost in measured(SLOW_TO_MOVE, (14,))]

    assert abs(np.median(logs(fitted))) < 0.15
    assert np.std(logs(fitted)) < 0.25
    assert np.std(logs(PRIOR)) > 0.75


def test_without_measurements_prices_are_the_roofline_s() -> None:
    assert fitted_prices(PROFILE, []) == pytest.approx(PRIOR)
    assert "no other layers were measured" in fitted_model(PROFILE, []).note


@given(st.floats(0.05, 20), st.integers(1, 40))
def test_a_faster_device_is_so_in_everything(factor: float, count: int) -> None:
    """Whatever was timed of it: features that were never seen keep the roofline's proportion."""
    faster = Features(*(price * factor for price in PRIOR))
    assert fitted_prices(PROFILE, measured(faster)[:count]) == pytest.approx(faster, rel=1e-6)


def test_features_never_seen_keep_the_roofline_s_proportion() -> None:
    """Nothing depthwise and nothing of wide groups was timed."""
    costs = [cost for cost in measured(SLOW_TO_MOVE) if features_of(cost.work).wide == 0]
    prices = fitted_prices(PROFILE, costs)
    assert prices.depthwise / PRIOR.depthwise == pytest.approx(prices.wide / PRIOR.wide)
    assert prices.narrow / PRIOR.narrow > 1.2 * prices.wide / PRIOR.wide


@given(st.lists(st.floats(1e-7, 1e-1), min_size=1, max_size=24))
def test_prices_are_never_negative_whatever_was_measured(times: list[float]) -> None:
    costs = [
        MeasuredCost(cost.layer, cost.work, seconds)
        for cost, seconds in zip(measured(PRIOR)[: len(times)], times, strict=False)
    ]
    prices = fitted_prices(PROFILE, costs)
    assert all(price >= 0 and np.isfinite(price) for price in prices)


def test_a_model_gives_the_seconds_of_a_form() -> None:
    """On a batch: images count as often as there are, nodes once."""
    form = generate_forms(STRUCTURES[0], ConvGeometry((3, 3)), (9, 9))[1]
    roofline, fitted = roofline_model(PROFILE), fitted_model(PROFILE, [])
    assert roofline.seconds(form, 3) == form_seconds(form, PROFILE, 3)
    assert fitted.seconds(form, 3) == pytest.approx(features_of(work_of(form, 3)).dot(PRIOR))
    assert fitted.seconds(form, 3) < 3 * fitted.seconds(form, 1)


# --- validation -----------------------------------------------------------------------------------------------


def test_layers_are_predicted_by_the_others() -> None:
    """The order of this device is learnt from other layers; the roofline does not know it."""
    found = validate(PROFILE, measured(SLOW_TO_MOVE))
    assert found is not None
    assert (found.layers, found.measurements) == (4, len(measured(SLOW_TO_MOVE)))
    assert found.fitted.within is not None
    assert found.roofline.within is not None
    assert found.fitted.within > found.roofline.within + 0.03
    assert found.fitted.overall > found.roofline.overall


def test_a_layer_has_no_say_in_its_own_prediction() -> None:
    """Where one layer contradicts the other, each is ranked the wrong way round."""
    moves = [Work((ConvWork(1, 1, 16, 16, 9, 9, 9),), (), (size,)) for size in (10**4, 10**5, 10**6, 10**7, 10**8)]
    rising, falling = [1e-3, 2e-3, 3e-3, 4e-3, 5e-3], [5e-3, 4e-3, 3e-3, 2e-3, 1e-3]
    costs = [
        MeasuredCost(name, work, seconds)
        for name, times in (("up", rising), ("down", falling))
        for work, seconds in zip(moves, times, strict=True)
    ]
    found = validate(PROFILE, costs)
    assert found is not None
    assert found.fitted.within == pytest.approx(0)  # the median of 1 and -1


def test_one_layer_cannot_be_validated() -> None:
    costs = measured(PRIOR, (9,))
    assert validate(PROFILE, costs) is None
    assert "too few for a rank correlation" in fitted_model(PROFILE, costs).note


def test_the_note_has_both_rank_correlations() -> None:
    note = fitted_model(PROFILE, measured(SLOW_TO_MOVE)).note
    count = len(measured(SLOW_TO_MOVE))
    assert note.startswith(
        f"cost model fitted to {count} measurements of other layers on this device, rank correlation 0.9"
    )
    assert "(roofline 0." in note


def test_layers_of_few_forms_do_not_count_within() -> None:
    many, few = np.arange(float(FEWEST_RANKED)), np.arange(FEWEST_RANKED - 1.0)
    assert agreement([many, few], [many, -few]).within == pytest.approx(1)
    assert agreement([few], [few]).within is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=20))
def test_rank_correlation_is_spearman_s(pairs: list[tuple[int, int]]) -> None:
    """Ties included; where one side has no order at all, scipy has no value and ours is 0."""
    one, other = (np.array(values, dtype=np.float64) for values in zip(*pairs, strict=True))
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert rank_correlation(one, other) == 0
    else:
        assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)
