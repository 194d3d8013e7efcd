"""The figures of one target, gathered: every null gets its reason."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from torch import nn

from kronexport.factorize.gkpd import gkpd_structure
from kronexport.measure.pair import PairFigures, SideFigures
from kronexport.records import (
    Check,
    ConvGeometry,
    GoalResult,
    Plan,
    Report,
    Site,
    SitePlan,
    Skipped,
    Speedup,
    Survey,
    TargetReport,
)
from kronexport.ship.report_json import missing_reasons
from kronexport.ship.summary import layer_table, model_figures, planned_times, target_report
from tests.ship.samples import LATENCY, PARETO, figures, write_model
from tests.ship.samples import target_report as target

SIDE = SideFigures(LATENCY, 1000, 900)
MEASURED = PairFigures(SIDE, SIDE, Speedup(1.5, (1.4, 1.6), "faster"), {"cpu": "x"}, {"rounds": 5}, {})
UNCOMPILED = Check("compiled", "simplified", None, None, None, None)


def gathered(**changes: Any) -> TargetReport:
    values: dict[str, Any] = {
        "precision": "fp32",
        "skipped": (Skipped("stem", "is depthwise"),),
        "dense": figures(),
        "compressed": figures(),
        "measured": MEASURED,
        "no_device": None,
        "uncompiled": None,
        "unevaluated": "",
        "goals": (GoalResult("macs<=0.5", 0.4, met=True),),
        "checks": (),
        "layers": (),
        "pareto": (),
        "notes": ("a note",),
    }
    return target_report(**(values | changes))


def complete(report: TargetReport) -> bool:
    return missing_reasons(Report("net", {"target": report})) == []


def test_what_was_measured_is_taken_over() -> None:
    report = gathered()
    assert (report.speedup, report.environment, report.protocol) == (
        MEASURED.speedup,
        MEASURED.environment,
        MEASURED.protocol,
    )
    assert report.notes == ("a note",)
    assert complete(report)


def test_without_a_device_every_figure_says_so() -> None:
    nothing = figures(latency_ms=None, peak_memory_bytes=None, build_peak_memory_bytes=None, accuracy=None)
    report = gathered(
        dense=nothing,
        compressed=nothing,
        measured=None,
        no_device="no device",
        uncompiled="no engine",
        unevaluated="no --evaluate was given",
        goals=(GoalResult("latency<=0.5", None, None),),
        checks=(UNCOMPILED,),
    )
    assert complete(report)
    assert report.speedup is None
    assert {report.unmeasured[key] for key in ("compressed.latency_ms", "speedup", "goals.latency<=0.5")} == {
        "no device"
    }
    assert report.unmeasured["verification.compiled"] == "no engine"


def test_an_engine_that_was_verified_for_another_device_needs_no_reason() -> None:
    nothing = figures(latency_ms=None, peak_memory_bytes=None, build_peak_memory_bytes=None, accuracy=None)
    report = gathered(dense=nothing, compressed=nothing, measured=None, no_device="no device")
    assert complete(report)
    assert "verification.compiled" not in report.unmeasured


def test_without_an_evaluator_only_the_accuracy_is_missing() -> None:
    unscored = figures(accuracy=None)
    report = gathered(dense=unscored, compressed=unscored, unevaluated="no --evaluate was given")
    assert complete(report)
    assert report.unmeasured["dense.accuracy"] == "no --evaluate was given"
    assert "dense.latency_ms" not in report.unmeasured


def test_a_goal_that_only_dense_lacks_a_figure_for_has_its_reason() -> None:
    """Of the compressed network all is known."""
    goal = GoalResult("memory<=0.5", None, None)
    reasons = {"dense.peak_memory_bytes": "not in the log"}
    unknown = PairFigures(SideFigures(LATENCY, None, 900), SIDE, MEASURED.speedup, {}, {}, reasons)
    report = gathered(dense=figures(peak_memory_bytes=None), measured=unknown, goals=[goal])
    assert report.unmeasured["goals.memory<=0.5"] == "not in the log"


def test_a_front_without_times_says_why() -> None:
    point = replace(PARETO[0], latency=None)
    report = gathered(pareto=(point,))
    assert report.pareto == (point,)
    assert "not timed" in report.unmeasured["pareto.latency"]
    assert complete(report)
    assert "pareto.latency" not in gathered(pareto=PARETO).unmeasured


def test_a_layer_that_was_not_timed_says_why() -> None:
    """The device that is not there is the reason where it is not; layers that were timed need none."""
    row = target().layers[0]
    assert "not timed for the plan" in gathered(layers=(row,)).unmeasured["layers.us"]
    absent = planned_times(Plan("t", (), "roofline"), "no device")
    assert gathered(layers=(row,), times=absent).unmeasured["layers.dense_us"] == "no device"
    timed = gathered(layers=(replace(row, dense_us=2.0, us=1.0),))
    assert timed.unmeasured == {}
    assert complete(timed)


def test_memory_that_could_not_be_measured_keeps_its_reason() -> None:
    unknown = figures(peak_memory_bytes=None, build_peak_memory_bytes=None)
    keys = [f"{side}.{key}_bytes" for side in ("dense", "compressed") for key in ("peak_memory", "build_peak_memory")]
    measured = PairFigures(SIDE, SIDE, MEASURED.speedup, {}, {}, dict.fromkeys(keys, "no clear_refs"))
    report = gathered(dense=unknown, compressed=unknown, measured=measured)
    assert complete(report)
    assert report.unmeasured["dense.peak_memory_bytes"] == "no clear_refs"


def test_figures_are_those_of_the_file_that_ships(tmp_path: Path) -> None:
    """MACs and bytes of the ONNX; params of the module, a shared one once."""
    path = write_model(tmp_path / "model.onnx")
    onnx.shape_inference.infer_shapes_path(path)  # what ships has its shapes
    conv = nn.Conv2d(3, 4, 3)
    shared = nn.ModuleList([conv, conv])
    found = model_figures(shared, path, 1, SIDE, 91.5)
    assert (found.params, found.macs, found.bytes) == (4 * 3 * 9 + 4, 4 * 8 * 8 * 3 * 9, path.stat().st_size)
    assert (found.latency_ms, found.peak_memory_bytes, found.build_peak_memory_bytes) == (LATENCY, 1000, 900)
    assert found.accuracy == 91.5
    assert model_figures(shared, path, 1, None, None).latency_ms is None


@pytest.fixture
def site() -> Site:
    return Site("conv", 1, 4, 6, ConvGeometry((3, 3)), (8, 8), (6, 6), has_bias=True, params=222, macs=7776, share=1.0)


def test_a_factorized_layer_shows_its_structure_and_exact_error(site: Site) -> None:
    structure = gkpd_structure((3, 2, 3, 1), (2, 2, 1, 3), 2)
    planned = SitePlan("conv", structure, "grouped-1-2", 66, 2000, 0.3, dense_seconds=3e-5, seconds=2e-5)
    plan = Plan("t", (planned,), "measured")
    (row,) = layer_table(Survey((site,), (), 222, 7776), plan, {"conv": 0.3125}, planned_times(plan))
    assert (row.site, row.method, row.structure, row.ranks) == ("conv", "gkpd", "3x2x3x1 * 2x2x1x3", (2,))
    assert (row.lowering, row.params, row.macs, row.rel_error) == ("grouped-1-2", 66, 2000, 0.3125)
    assert (row.dense_params, row.dense_macs) == (222, 7776)
    assert (row.dense_us, row.us) == pytest.approx((30, 20))


def test_a_dense_layer_shows_its_shape(site: Site) -> None:
    plan = Plan("t", (SitePlan("conv", None, "dense", 222, 7776, 0.0),), "roofline")
    (row,) = layer_table(Survey((site,), (), 222, 7776), plan, {})
    assert (row.method, row.structure, row.ranks, row.rel_error) == ("dense", "6x4x3x3", (), 0.0)
