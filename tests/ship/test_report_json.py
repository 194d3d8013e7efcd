import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kronexport.errors import KronexportError, UserInputError
from kronexport.records import Check, GoalResult, Report
from kronexport.ship.report_json import missing_reasons, read_report_json, report_schema, write_report_json
from tests.ship.samples import PARETO, figures, report, target_report, unmeasured_target

LATENCY_KEYS = {"n", "min", "mean", "std", "p50", "p90", "p95", "p99"}
MODEL_KEYS = {
    "params",
    "macs",
    "bytes",
    "latency_ms",
    "peak_memory_bytes",
    "build_peak_memory_bytes",
    "weight_bytes",
    "activation_bytes",
    "accuracy",
}
TARGET_KEYS = {
    "precision",
    "environment",
    "protocol",
    "skipped",
    "pareto",
    "unmeasured",
    "goals",
    "dense",
    "compressed",
    "speedup",
    "verification",
    "layers",
}
PARETO_KEYS = {"latency", "macs", "params", "error", "basis", "chosen"}
LAYER_KEYS = {
    "site",
    "method",
    "structure",
    "ranks",
    "lowering",
    "params",
    "macs",
    "rel_error",
    "float_steps",
    "dense_us",
    "us",
    "dense_params",
    "dense_macs",
    "reason",
}


def written(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    write_report_json(report(**changes), tmp_path / "report.json")
    value: dict[str, Any] = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    return value


def edited(tmp_path: Path, edit: dict[str, Any], *path: str) -> Path:
    """A written report.json with the keys of ``edit`` set in the object at ``path``."""
    value = written(tmp_path)
    place = value
    for key in path:
        place = place[key]
    place.update(edit)
    (tmp_path / "report.json").write_text(json.dumps(value))
    return tmp_path / "report.json"


def test_report_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    before = Report("m", {"a": target_report(), "b": unmeasured_target()})
    write_report_json(before, tmp_path / "report.json")
    assert read_report_json(tmp_path / "report.json") == replace(
        before, targets={name: replace(target) for name, target in before.targets.items()}
    )


def test_every_key_of_the_contract_is_written(tmp_path: Path) -> None:
    value = written(tmp_path)
    assert set(value) == {"schema", "model", "targets"}
    assert value["schema"] == 1
    target = value["targets"]["x86-onnxruntime"]
    assert set(target) >= TARGET_KEYS
    for side in ("dense", "compressed"):
        assert set(target[side]) == MODEL_KEYS
        assert set(target[side]["latency_ms"]) == LATENCY_KEYS
    assert set(target["skipped"][0]) == {"site", "reason"}
    assert set(target["goals"][0]) == {"expr", "value", "met"}
    assert set(target["speedup"]) == {"median", "ci95", "verdict"}
    assert set(target["verification"][0]) == {"stage", "against", "max_abs", "rel_l2", "tolerance", "passed"}
    assert set(target["layers"][0]) == LAYER_KEYS
    assert set(target["pareto"][0]) == PARETO_KEYS


def test_null_figures_keep_their_keys(tmp_path: Path) -> None:
    write_report_json(Report("m", {"jetson": unmeasured_target()}), tmp_path / "report.json")
    target = json.loads((tmp_path / "report.json").read_text())["targets"]["jetson"]
    assert set(target["dense"]) == MODEL_KEYS
    assert target["dense"]["latency_ms"] is None
    assert target["speedup"] is None


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"dense": figures(latency_ms=None)}, "dense.latency_ms"),
        ({"compressed": figures(accuracy=None)}, "compressed.accuracy"),
        ({"compressed": figures(peak_memory_bytes=None)}, "compressed.peak_memory_bytes"),
        ({"dense": figures(build_peak_memory_bytes=None)}, "dense.build_peak_memory_bytes"),
        ({"speedup": None}, "speedup"),
        ({"pareto": (replace(PARETO[0], latency=None),)}, "pareto.latency"),
        ({"goals": (GoalResult("latency<=0.5", None, None),)}, "goals.latency<=0.5"),
        ({"verification": (Check("compiled", "simplified", None, None, 1e-5, None),)}, "verification.compiled"),
        ({"verification": (Check("factorized", "dense", 0.1, None, None, None),)}, "verification.factorized"),
    ],
)
def test_null_without_a_reason_is_not_written(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    assert missing_reasons(report(**changes)) == [f"x86-onnxruntime: {key}"]
    with pytest.raises(KronexportError, match="null without a reason") as caught:
        write_report_json(report(**changes), tmp_path / "report.json")
    assert key in str(caught.value)
    assert not list(tmp_path.iterdir())
    reasons = target_report().unmeasured | {key: "no device"}
    assert missing_reasons(report(**changes, unmeasured=reasons)) == []


def test_empty_reason_is_no_reason() -> None:
    assert missing_reasons(report(speedup=None, unmeasured=target_report().unmeasured | {"speedup": ""}))


def test_layer_times_may_be_explained_row_by_row_or_for_the_whole_table() -> None:
    site = target_report().layers[0].site
    assert missing_reasons(report(unmeasured={f"layers.{site}.us": "x", "layers.dense_us": "x"})) == []
    assert missing_reasons(report(unmeasured={"layers.dense_us": "x"})) == [f"x86-onnxruntime: layers.{site}.us"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_number_that_is_not_finite_is_refused_by_its_key(tmp_path: Path, bad: float) -> None:
    with pytest.raises(KronexportError, match=r"targets\.x86-onnxruntime\.dense\.accuracy"):
        write_report_json(report(dense=figures(accuracy=bad)), tmp_path / "report.json")
    assert not list(tmp_path.iterdir())


def test_added_keys_are_accepted(tmp_path: Path) -> None:
    path = edited(tmp_path, {"energy_mj": 1.5}, "targets", "x86-onnxruntime", "dense")
    assert read_report_json(path) == report()


@pytest.mark.parametrize(
    ("edit", "place", "message"),
    [
        ({"schema": 2}, (), "schema 2, expected 1"),
        (
            {"params": "many"},
            ("targets", "x86-onnxruntime", "dense"),
            r"targets\.x86-onnxruntime\.dense\.params: .*many",
        ),
        ({"verdict": "great"}, ("targets", "x86-onnxruntime", "speedup"), r"speedup\.verdict: .*great"),
        ({"goals": [{"expr": "a"}]}, ("targets", "x86-onnxruntime"), r"goals\.0\.value: Field required"),
        ({"accuracy": None}, ("targets", "x86-onnxruntime", "dense"), r"without a reason.*dense\.accuracy"),
    ],
)
def test_wrong_value_is_refused_by_its_key(
    tmp_path: Path, edit: dict[str, Any], place: tuple[str, ...], message: str
) -> None:
    path = edited(tmp_path, edit, *place)
    with pytest.raises(UserInputError, match=message):
        read_report_json(path)


@pytest.mark.parametrize("text", ["", "[1]", '{"schema": 1', '{"schema": 1, "model": NaN, "targets": {}}', "\udcff"])
def test_file_that_is_no_report_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserInputError, match=r"report\.json: "):
        read_report_json(path)


def test_missing_report_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=r"report\.json: cannot be read"):
        read_report_json(tmp_path / "report.json")


def test_schema_requires_every_key_of_the_contract() -> None:
    schema = report_schema()
    definitions = schema["$defs"]
    assert set(schema["required"]) == {"schema", "model", "targets"}
    assert set(definitions["TargetReport"]["required"]) >= TARGET_KEYS
    assert set(definitions["ModelFigures"]["required"]) == MODEL_KEYS
    assert set(definitions["LayerFigures"]["required"]) == LAYER_KEYS
    assert set(definitions["ParetoPoint"]["required"]) == PARETO_KEYS
    assert "cubic mean" in definitions["ParetoPoint"]["description"]
    assert set(definitions["LatencyStats"]["required"]) == LATENCY_KEYS
    json.dumps(schema, allow_nan=False)
