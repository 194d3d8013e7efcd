"""A whole build in FP16: types in model.onnx, the precision wherever it is told, refused where a target has none."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from kronexport.backends.profile import list_targets, load_target
from kronexport.ship.report_json import missing_reasons, read_report_json
from kronexport.verify.outputs import run_onnx
from tests.conftest import INPUT, SHORT, command

TARGETS = ("jetson-orin-nano", "jetson-nano", "rpi5")


@pytest.fixture(scope="module")
def shipped(network: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The outputs in fp32 and in FP16 for every target of this file; only to be read."""
    folder = tmp_path_factory.mktemp("half")
    for precision in ("fp32", "fp16"):
        targets = [word for name in TARGETS for word in ("--target", name)]
        line = ("build", f"{network}:net", "--input", INPUT, "--precision", precision, *targets, *SHORT)
        ended = command(*line, "--out", folder / precision)
        assert ended.code == 0, ended.err
    return {precision: folder / precision for precision in ("fp32", "fp16")}


@pytest.mark.parametrize("target", TARGETS)
def test_a_build_in_fp16_ships_a_checked_fp16_model(shipped: dict[str, Path], target: str) -> None:
    """Weights in FP16, float at the border, opset and IR of the target; the file computes its golden outputs."""
    profile, out = load_target(target), shipped["fp16"]
    found = read_report_json(out / "report.json").targets[target]
    assert found.precision == "fp16"
    checks = {check.stage: check for check in found.verification}
    assert list(checks) == ["factorized", "portable", "lowered", "simplified", "half", "compiled"]
    assert (checks["half"].tolerance, checks["half"].passed) == (profile.tolerances["fp16"], True)
    assert checks["compiled"].against == "half"
    assert checks["compiled"].passed is (None if profile.backend == "tensorrt" else True)
    assert all(checks[stage].tolerance == 1e-5 for stage in ("portable", "lowered", "simplified"))
    model = onnx.load(out / target / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == profile.opset
    assert model.ir_version == profile.ir_version
    kinds = {tensor.data_type for tensor in model.graph.initializer} - {onnx.TensorProto.INT64}
    assert kinds == {onnx.TensorProto.FLOAT16}
    ends = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert ends == {onnx.TensorProto.FLOAT}
    with np.load(out / target / "golden.npz") as stored:
        (images,) = (stored[key] for key in stored.files if key.startswith("input:"))
        (golden,) = (stored[key] for key in stored.files if key.startswith("output:"))
    (output,) = run_onnx(out / target / "model.onnx", images).values()
    assert 0 < np.linalg.norm(output - golden) / np.linalg.norm(golden) < profile.tolerances["fp16"]


@pytest.mark.parametrize("target", TARGETS)
def test_weights_take_half_the_bytes_and_nothing_else_changes(shipped: dict[str, Path], target: str) -> None:
    half, single = (read_report_json(shipped[each] / "report.json").targets[target] for each in ("fp16", "fp32"))
    for ours, theirs in ((half.dense, single.dense), (half.compressed, single.compressed)):
        assert (ours.params, ours.macs) == (theirs.params, theirs.macs)
        assert ours.bytes < theirs.bytes
        assert ours.weight_bytes < 0.6 * theirs.weight_bytes
        assert ours.activation_bytes < theirs.activation_bytes


def test_the_manifest_tells_the_precision_and_how_to_build_it_again(shipped: dict[str, Path]) -> None:
    manifest = json.loads((shipped["fp16"] / "rpi5" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["precision"] == "fp16"
    assert manifest["golden"]["tolerance"] == load_target("rpi5").tolerances["fp16"]
    assert "--precision fp16" in manifest["rebuild"]
    assert manifest["compatibility"].endswith("fp16")
    assert manifest["input"]["dtype"] == "float32"


def test_reports_of_both_precisions_are_compared_with_a_warning(shipped: dict[str, Path]) -> None:
    assert missing_reasons(read_report_json(shipped["fp16"] / "report.json")) == []
    ended = command("compare", shipped["fp32"], shipped["fp16"])
    assert ended.code == 0, ended.err
    assert "fp16" in ended.out
    assert "precision" in ended.out + ended.err


def test_a_plan_for_fp16_is_made(network: Path) -> None:
    ended = command("plan", f"{network}:net", "--input", INPUT, "--target", "jetson", "--set", "precision=fp16", *SHORT)
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("target", ["x86-onnxruntime", "x86-openvino", "rpi4", "intel-n100"])
def test_a_target_without_fp16_refuses_it(network: Path, tmp_path: Path, target: str) -> None:
    """Nothing is built in another precision instead."""
    line = ("build", f"{network}:net", "--input", INPUT, "--target", target, "--precision", "fp16")
    ended = command(*line, "--out", tmp_path / "out")
    assert ended.code == 2
    assert f"--precision fp16: {target} is built in fp32" in ended.err
    assert not (tmp_path / "out").exists()


def test_every_target_that_takes_fp16_types_is_built_in_fp16() -> None:
    """With a reason for its tolerance."""
    for profile in list_targets():
        offered = "fp16" in profile.precisions
        assert offered is ("fp16-onnx" in profile.routes["fp16"]), profile.name
        assert not offered or profile.facts["tolerances.fp16"].value == f"{profile.tolerances['fp16']:.0e}".replace(
            "-0", "-"
        )
