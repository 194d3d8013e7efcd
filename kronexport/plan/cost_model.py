"""Seconds of forms that were not timed: counts of work times what one of each takes, fitted to what was timed.

    seconds = sum over features of count * price           prices >= 0

A device's prices make the squared relative error over its measurements least, with a ridge that draws each of them
towards the roofline's, as strongly as one measurement more would:

    least  sum over rows (seconds predicted / measured - 1)^2  +  RIDGE * sum over features (price / drawn to - 1)^2

What they are drawn to are the roofline's prices times one factor, the median of measured over estimated: a device that
is twice as fast as its target says is so in what it has not been seen doing, too. The model shortlists; what is chosen
is measured (docs/decisions/0010-a-cost-model-that-shortlists.md).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import rankdata

from kronexport.backends.profile import TargetProfile
from kronexport.lower.forms import Form
from kronexport.measure.work import MeasuredCost, Work, work_of
from kronexport.plan.features import Features, features_of, roofline_prices
from kronexport.plan.roofline import work_seconds

RIDGE = 1.0
FEWEST_RANKED = 5
"""Measured forms of a layer that a rank correlation within it takes."""

Array = NDArray[np.float64]

Seconds = Callable[[Form, int], float]
"""An estimate for one inference of a form on a batch of that size."""


@dataclass(frozen=True, slots=True)
class CostModel:
    """Estimates seconds of what was not timed.

    Attributes:
        of_work: seconds of a form's work; of a ladder's an array [ranks].
        key: the same for models that estimate the same.
        rank_multiple: channels that the target computes in.
        note: tells a reader what the estimates rest on.
    """

    of_work: Callable[[Work], float | Array]
    key: bytes
    rank_multiple: int
    note: str

    def seconds(self, form: Form, batch: int) -> float:
        """Of one inference of ``form`` on a batch of that size."""
        return float(self.of_work(work_of(form, batch)))


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well seconds rank forms: Spearman's rank correlation with what was measured.

    ``within`` is the median over layers with enough measured forms, None where there is no such layer; ``overall`` is
    over all forms of all layers.
    """

    within: float | None
    overall: float


@dataclass(frozen=True, slots=True)
class Validation:
    """The agreement of prices that were fitted without the layer that they predict, and of the bare roofline."""

    measurements: int
    layers: int
    fitted: Agreement
    roofline: Agreement


def roofline_model(profile: TargetProfile) -> CostModel:
    """Of a target where nothing can be measured."""
    return CostModel(
        lambda work: work_seconds(work, profile),
        repr(profile.roofline).encode(),
        profile.rank_multiple,
        "cost model: the target's roofline, since nothing can be measured on it here",
    )


def fitted_model(profile: TargetProfile, costs: Sequence[MeasuredCost]) -> CostModel:
    """Of a device with these measurements; without any its prices are the roofline's."""
    prices = fitted_prices(profile, costs)
    return CostModel(
        lambda work: features_of(work).dot(prices), repr(prices).encode(), profile.rank_multiple, _note(profile, costs)
    )


def fitted_prices(profile: TargetProfile, costs: Sequence[MeasuredCost]) -> Features:
    """The seconds that one of each feature takes."""
    units = _units(list(_layers(profile, costs).values()))
    return Features(*(units * np.array(roofline_prices(profile))).tolist())


def validate(profile: TargetProfile, costs: Sequence[MeasuredCost]) -> Validation | None:
    """How well forms of a layer that was not measured are ranked; None where fewer than two layers were."""
    layers = _layers(profile, costs)
    if len(layers) < 2:  # noqa: PLR2004  one is left out, and one has to be left
        return None
    predicted, estimated = [], []
    for name, layer in layers.items():
        units = _units([other for key, other in layers.items() if key != name])
        predicted.append(layer.seconds * (layer.ratios @ units))
        estimated.append(np.array([work_seconds(work, profile) for work in layer.works]))
    measured = [layer.seconds for layer in layers.values()]
    return Validation(
        len(costs), len(layers), fitted=agreement(predicted, measured), roofline=agreement(estimated, measured)
    )


def agreement(predicted: Sequence[Array], measured: Sequence[Array]) -> Agreement:
    """Of seconds, one array a layer."""
    within = [
        rank_correlation(*pair) for pair in zip(predicted, measured, strict=True) if len(pair[0]) >= FEWEST_RANKED
    ]
    overall = rank_correlation(np.concatenate(predicted), np.concatenate(measured))
    return Agreement(median(within) if within else None, overall)


def rank_correlation(one: Array, other: Array) -> float:
    """Spearman's: 1 for the same order, -1 for the opposite one, 0 where one of them has no order."""
    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (one, other)]
    norm = float(np.linalg.norm(ranks[0]) * np.linalg.norm(ranks[1]))
    return float(ranks[0] @ ranks[1]) / norm if norm else 0.0


@dataclass(frozen=True, slots=True)
class _Layer:
    """The measurements of one layer.

    ``ratios`` [measurements, features]: seconds by the roofline's prices, feature by feature, over the measured ones.
    """

    works: tuple[Work, ...]
    seconds: Array
    ratios: Array


def _layers(profile: TargetProfile, costs: Sequence[MeasuredCost]) -> dict[str, _Layer]:
    by_name: dict[str, list[MeasuredCost]] = {}
    for cost in costs:
        by_name.setdefault(cost.layer, []).append(cost)
    prior = np.array(roofline_prices(profile))
    found = {}
    for name, group in by_name.items():
        seconds = np.array([cost.seconds for cost in group])
        counts = np.array([features_of(cost.work) for cost in group], dtype=np.float64)
        found[name] = _Layer(tuple(cost.work for cost in group), seconds, counts * prior / seconds[:, None])
    return found


def _units(layers: Sequence[_Layer]) -> Array:
    """The least-squares prices, the roofline's being 1; of no layers these."""
    if not layers:
        return np.ones(len(Features()))
    factor = 1 / float(np.median(np.concatenate([layer.ratios.sum(axis=1) for layer in layers])))
    # the normal equations: as many rows as features, however many measurements there are
    normal = RIDGE * np.eye(len(Features())) + factor**2 * sum(layer.ratios.T @ layer.ratios for layer in layers)
    moment = RIDGE + factor * sum(layer.ratios.sum(axis=0) for layer in layers)
    root = np.linalg.cholesky(normal)
    units, _ = nnls(root.T, np.linalg.solve(root, moment))
    return np.asarray(units * factor)


def _note(profile: TargetProfile, costs: Sequence[MeasuredCost]) -> str:
    if not costs:
        return "cost model: prices of the target's roofline, since no other layers were measured on this device yet"
    fitted = f"cost model fitted to {len(costs)} measurements of other layers on this device"
    found = validate(profile, costs)
    if found is None or found.fitted.within is None or found.roofline.within is None:
        return f"{fitted}, too few for a rank correlation"
    return (
        f"{fitted}, rank correlation {found.fitted.within:.2f} (roofline {found.roofline.within:.2f}): "
        f"median within {found.layers} layers, each left out of the fit"
    )
