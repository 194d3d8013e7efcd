"""Which network ships where accuracy is all that is asked for, by a double of what builds and scores networks."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from kronexport.factorize.gkpd import gkpd_structure
from kronexport.plan.accuracy import BUILDS, planned_error
from kronexport.records import ParetoPoint, Plan, SitePlan, Training, silent
from kronexport.stages import compress
from kronexport.stages.job import FactorizedModel, Network

PAIR = gkpd_structure((4, 4, 1, 1), (4, 4, 3, 3), 1)
FRONT = (
    ParetoPoint(1.0, 1.0, 1.0, 0.0, "measured", chosen=False),
    ParetoPoint(0.5, 0.5, 0.5, 1.0, "measured", chosen=True),
)


def plan(error: float, lowering: str = "grouped-2-1") -> Plan:
    """Of one layer; ``error`` as ``planned_error`` counts it."""
    structure = PAIR if error else None
    return Plan("cpu", (SitePlan("layer", structure, lowering, 1, 1, error ** (1 / 3)),), "measured", pareto=FRONT)


def network(of: Plan, accuracy: float | None) -> Network:
    missing: Any = None
    return Network(of, missing, missing, missing, missing, (), accuracy)


class Built:
    """Builds by a first plan and by errors; a network drops by ``drop`` of its error."""

    def __init__(self, allowed: float, drop: Callable[[float], float], monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[float] = []
        self.networks = 0
        planner = SimpleNamespace(drop_alone=lambda _profile: allowed, plan=self.plan)
        self.job: Any = SimpleNamespace(planner=planner, profile=SimpleNamespace(name="cpu"), progress=silent)
        self.drop = drop
        monkeypatch.setattr(compress, "factorize_stage", self.factorize)

    def plan(self, _profile: object, _progress: object, error: float) -> Plan:
        self.asked.append(error)
        return plan(error, "fast")

    def factorize(self, _job: object, of: Plan, *_: object) -> Network:
        self.networks += 1
        return network(of, 100 - self.drop(planned_error(of)))

    def shipped(self, first: Plan) -> Network:
        return compress.compress_stage(self.job, first, network(plan(0.0, "dense"), 100.0), ["output"])


def test_the_largest_error_that_keeps_the_accuracy_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    built = Built(1.0, lambda error: 10 * error, monkeypatch)
    found = planned_error(built.shipped(plan(1.0)).plan)
    assert 0.1 / 1.5 <= found <= 0.1
    assert built.networks <= BUILDS


def test_a_plan_that_nothing_scores_says_that_the_search_only_begins_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that was scored has no such note, also where it is the first."""
    scored = Built(1.0, lambda error: 10 * error, monkeypatch)
    unscored = compress.compress_stage(scored.job, plan(1.0), network(plan(0.0, "dense"), None), ["output"])
    assert "only known once networks are built and scored" in unscored.plan.notes[0]
    assert scored.shipped(plan(0.05)).plan.notes == ()


def test_dense_ships_where_no_network_keeps_the_accuracy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the reason at the layer, and the front, on which dense is what was chosen."""
    shipped = Built(1.0, lambda _error: 5.0, monkeypatch).shipped(plan(1.0)).plan
    assert (shipped.structures, shipped.sites[0].reason) == ({}, shipped.notes[-1])
    assert "no network of the 5 that were built keeps the accuracy: dense is shipped" in caplog.text
    assert [(point.error, point.chosen) for point in shipped.pareto] == [(0.0, True), (1.0, False)]


def test_more_accuracy_than_dense_has_is_approached(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Built(-1.0, lambda error: error, monkeypatch).shipped(plan(1.0))
    assert found.plan.structures
    assert found.accuracy is not None
    assert found.accuracy < 100


def test_a_first_plan_that_is_the_only_one_is_made_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was made for MACs."""
    built = Built(1.0, lambda error: 0.9 if error < 1.01 else 2.0, monkeypatch)
    found = built.shipped(plan(1.0)).plan
    assert found.sites[0].lowering == "fast"
    assert built.asked[-1] == pytest.approx(1.0)


def test_a_first_plan_without_an_error_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    """No choice has less: there is nothing to plan by."""
    built = Built(1.0, lambda _error: 0.0, monkeypatch)
    assert built.shipped(plan(0.0, "dense")).plan.structures == {}
    assert built.asked == []


@pytest.mark.parametrize(
    ("factor", "is_scored", "has_images", "warns"),
    [(1.5, False, True, True), (0.5, False, True, False), (1.5, True, True, False), (1.5, False, False, False)],
)
def test_a_training_that_leads_away_is_warned_of(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    factor: float,
    *,
    is_scored: bool,
    has_images: bool,
    warns: bool,
) -> None:
    """Only where nothing scores it, and on images: what the golden noise says of a network means little."""

    def scaled(by: float) -> nn.Module:
        layer = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.constant_(layer.weight, by)
        return layer.eval()

    golden = np.ones((1, 1, 2, 2), np.float32)
    project = SimpleNamespace(
        module=scaled(1.0),
        golden=golden,
        calibration=golden if has_images else None,
        evaluate=None,
        input=SimpleNamespace(shape=golden.shape),
    )
    job: Any = SimpleNamespace(project=project, recovery=object(), progress=silent)
    trained = scaled(1 + 0.2 * factor), Training("distillation")
    monkeypatch.setattr(compress, "recovered", lambda *_, **__: trained)
    found = compress.recover_stage(job, FactorizedModel(scaled(1.2)), None, is_scored=is_scored)
    assert found.training is not None
    assert found.training.error_after == pytest.approx(factor * (found.training.error_before or 0), rel=1e-5)
    assert ("further from the dense network's" in caplog.text) == warns
