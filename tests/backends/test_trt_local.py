"""Where this machine is the board, the backend builds, proves and runs the engine itself; here by trtexec's double."""

from pathlib import Path

import pytest

from kronexport import agent
from kronexport.backends.profile import load_target
from kronexport.backends.tensorrt import TensorRtBackend
from kronexport.backends.trt_local import trtexec_of
from kronexport.errors import MissingRuntimeError, VerificationError
from kronexport.verify.outputs import run_onnx
from tests.backends.double import save_double
from tests.backends.models import images, quantized_tiny_model, save_tiny_model


def backend(folder: Path, release: str = "8.6", fallback: str = "") -> TensorRtBackend:
    double = str(save_double(folder / "trtexec", release, fallback))
    return TensorRtBackend(find=lambda _profile: double)


@pytest.mark.parametrize("quantize", [False, True], ids=["fp32", "int8"])
def test_the_engine_is_built_and_run_on_the_board_itself(tmp_path: Path, *, quantize: bool) -> None:
    """Engine and script ship, and nothing else is left; three samples go one at a time."""
    model = save_tiny_model(tmp_path / "model.onnx")
    if quantize:
        quantized_tiny_model(model)
    made = backend(tmp_path)
    compiled = made.compile(model, tmp_path / "compiled", load_target("jetson"))
    assert compiled.artifact == tmp_path / "compiled" / "model.engine"
    assert {path.name for path in (tmp_path / "compiled").iterdir()} == {path.name for path in compiled.files}
    assert {path.name for path in compiled.files} == {"model.engine", "build_engine.sh"}
    assert compiled.notes[-1].endswith(f"1 in {'int8' if quantize else 'fp32'}")
    x = images(3)
    with made.runner(compiled, threads=1) as runner:
        outputs = runner.infer({"x": x})
    near = 0.01 if quantize else 1e-5  # the double's ONNX Runtime fuses Q/DQ, and rounds some values to the next step
    assert agent.rel_l2(outputs["y"], run_onnx(model, x)["y"]) < near


def test_an_engine_in_another_precision_is_refused(tmp_path: Path) -> None:
    model = quantized_tiny_model(save_tiny_model(tmp_path / "model.onnx"))
    with pytest.raises(VerificationError, match="fp32 instead of int8"):
        backend(tmp_path, fallback="conv").compile(model, tmp_path / "compiled", load_target("jetson"))
    assert not (tmp_path / "compiled" / "model.engine").exists()


def test_a_fallback_that_is_allowed_is_named_in_the_notes(tmp_path: Path) -> None:
    """With what the node runs in; the engine is there."""
    model = quantized_tiny_model(save_tiny_model(tmp_path / "model.onnx"))
    made = backend(tmp_path, fallback="conv")
    compiled = made.compile(model, tmp_path / "compiled", load_target("jetson"), allow_fallback=True)
    assert compiled.artifact is not None
    assert compiled.notes[-1] == (
        "not in the precision that was asked for, let be by --allow-fallback: conv (fp32 instead of int8)"
    )


def test_a_board_with_another_tensorrt_gets_the_script_and_the_reason(tmp_path: Path) -> None:
    made = backend(tmp_path, "8.5")
    compiled = made.compile(save_tiny_model(tmp_path / "model.onnx"), tmp_path / "compiled", load_target("jetson"))
    assert compiled.reason == "not built here: TensorRT 8.5.2 is installed, expected 8.6.2"
    assert [path.name for path in compiled.files] == ["build_engine.sh"]
    with pytest.raises(MissingRuntimeError, match="not built here"), made.runner(compiled, threads=1):
        pytest.fail("there is no engine to enter with")


def test_a_machine_with_another_chip_is_no_board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever trtexec it has: an engine fits one GPU."""
    save_double(tmp_path / "trtexec")
    monkeypatch.setenv("PATH", str(tmp_path))
    for chips, found in ((["nvidia,tegra194"], None), (["nvidia,tegra234"], str(tmp_path / "trtexec"))):
        monkeypatch.setattr(agent, "gpus", lambda chips=chips: chips)
        assert trtexec_of(load_target("jetson")) == found
    assert trtexec_of(load_target("cpu")) is None
