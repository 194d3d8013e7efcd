"""A whole build for a dynamic batch: right at each size, told in report and manifest; wrong ranges are refused."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from kronexport.ship.report_json import missing_reasons, read_report_json
from kronexport.survey.model import load_model
from kronexport.verify.outputs import run_onnx
from tests.conftest import SHORT, Ended, command

INPUT = "2x3x32x32"


def build(network: Path, out: Path, *arguments: object) -> Ended:
    return command("build", f"{network}:net", "--input", INPUT, "--out", out, *arguments, *SHORT)


@pytest.mark.parametrize(
    ("alias", "target", "precision", "measured"),
    [
        ("cpu", "x86-onnxruntime", "fp32", True),
        ("cpu", "x86-onnxruntime", "int8", True),
        ("openvino", "x86-openvino", "fp32", True),
        ("rpi", "rpi5", "fp16", False),
    ],
)
def test_a_dynamic_batch_is_right_and_told_at_each_size(
    network: Path, tmp_path: Path, alias: str, target: str, precision: str, *, measured: bool
) -> None:
    """At other sizes between them, too; figures are counted at the usual one; its bundle verifies."""
    out = tmp_path / "out"
    line = ("--target", alias, "--precision", precision, "--dynamic-batch", "1:2:5")
    ended = build(network, out, *line, "--time-budget", "1s")
    assert ended.code == 0, ended.err
    report = read_report_json(out / "report.json")
    found = report.targets[target]
    assert [figures.batch for figures in found.dynamic_batch] == [1, 2, 5]
    assert all((figures.speedup is not None) is measured for figures in found.dynamic_batch)
    assert missing_reasons(report) == []
    assert any(note.startswith("5 samples at once: ") for note in found.notes) is measured
    assert found.compressed.macs < found.dense.macs
    manifest = json.loads((out / target / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["dynamic_batch"] == {"min": 1, "opt": 2, "max": 5}
    assert manifest["input"]["shape"] == [2, 3, 32, 32]
    assert "--dynamic-batch 1:2:5" in manifest["rebuild"]
    model = onnx.load(out / target / "model.onnx")
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    module = load_model(f"{network}:net", None).module.eval()
    dense = out / "intermediates" / target / "dense.onnx"
    for batch in (1, 2, 3, 5):
        images = np.random.default_rng(batch).standard_normal((batch, 3, 32, 32), np.float32)
        with torch.no_grad():
            wanted = module(torch.from_numpy(images)).numpy()
        (output,) = run_onnx(dense, images).values()
        tolerance = 1e-5 if precision == "fp32" else 5e-3
        assert np.linalg.norm(output - wanted) <= tolerance * np.linalg.norm(wanted)
        assert next(iter(run_onnx(out / target / "model.onnx", images).values())).shape == wanted.shape
    if measured:
        assert command("verify", out / target).code == 0


def test_without_it_the_batch_is_static(network: Path, tmp_path: Path) -> None:
    ended = build(network, tmp_path / "out", "--target", "rpi")
    assert ended.code == 0, ended.err
    manifest = json.loads((tmp_path / "out" / "rpi5" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["dynamic_batch"] is None
    assert read_report_json(tmp_path / "out" / "report.json").targets["rpi5"].dynamic_batch == ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("1:2", "expected MIN:OPT:MAX"),
        ("0:2:4", "expected MIN:OPT:MAX"),
        ("1:-2:4", "expected MIN:OPT:MAX"),
        ("a:2:4", "expected MIN:OPT:MAX"),
        ("4:2:8", "expected MIN <= OPT <= MAX"),
        ("1:8:2", "expected MIN <= OPT <= MAX"),
        ("1:4:8", "OPT is 4, the input has a batch of 2; expected the same"),
    ],
)
def test_a_range_that_is_none_is_refused(network: Path, tmp_path: Path, given: str, message: str) -> None:
    ended = build(network, tmp_path / "out", "--dynamic-batch", given)
    assert ended.code == 2
    assert message in ended.err
    assert not (tmp_path / "out").exists()
