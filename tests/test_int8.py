"""A whole build in int8: what it says, and that what ships is what was checked."""

import json
from pathlib import Path

import onnx
import pytest

from kronexport.ship.report_json import missing_reasons, read_report_json
from tests.conftest import INPUT, SHORT, command


@pytest.mark.parametrize(("alias", "target"), [("cpu", "x86-onnxruntime"), ("openvino", "x86-openvino")])
def test_a_build_in_int8_ships_a_checked_int8_engine(network: Path, alias: str, target: str, tmp_path: Path) -> None:
    """Q/DQ in model.onnx, the precision in manifest and report, every stage checked; its bundle verifies."""
    out = tmp_path / "out"
    line = ("build", f"{network}:net", "--input", INPUT, "--target", alias, "--precision", "int8", "--out", out)
    ended = command(*line, "--time-budget", "1s", *SHORT)
    assert ended.code == 0, ended.err
    report = read_report_json(out / "report.json")
    found = report.targets[target]
    assert found.precision == "int8"
    stages = [(check.stage, check.against, check.passed) for check in found.verification[-2:]]
    assert stages == [("quantized", "simplified", True), ("compiled", "quantized", True)]
    assert all(check.tolerance == 1e-5 for check in found.verification[1:-2])
    assert found.compressed.macs < found.dense.macs
    assert not missing_reasons(report)
    assert any(note.startswith("int8 over the same network in float: ") for note in found.notes)
    operators = [node.op_type for node in onnx.load(out / target / "model.onnx").graph.node]
    assert "QuantizeLinear" in operators
    manifest = json.loads((out / target / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["precision"] == "int8"
    assert "--precision int8" in manifest["rebuild"]
    assert command("verify", out / target).code == 0


def test_ranges_that_there_are_not_are_refused(network: Path, tmp_path: Path) -> None:
    ended = command("build", f"{network}:net", "--input", INPUT, "--int8-ranges", "median", "--out", tmp_path / "out")
    assert ended.code == 2
    assert "--int8-ranges" in ended.err
    assert "'minmax', 'entropy' or 'percentile'" in ended.err


def test_a_precision_that_a_target_is_not_built_in_is_refused(network: Path, tmp_path: Path) -> None:
    ended = command("build", f"{network}:net", "--input", INPUT, "--precision", "fp16", "--out", tmp_path / "out")
    assert ended.code == 2
    assert "--precision fp16: x86-onnxruntime is built in fp32, int8" in ended.err
