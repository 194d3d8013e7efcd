"""What holds of every backend, run over every backend."""

import sys
from pathlib import Path

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from kronexport.backends import BACKENDS, require_runtime
from kronexport.backends.base import Backend
from kronexport.backends.profile import BackendName, TargetProfile, load_target
from kronexport.errors import KronexportError, MissingRuntimeError, UserInputError
from tests.backends.models import images, save_tiny_model

TARGETS: dict[BackendName, str] = {
    "onnxruntime": "x86-onnxruntime",
    "openvino": "x86-openvino",
    "tensorrt": "jetson-orin-nano",
}
LOCAL: tuple[BackendName, ...] = ("onnxruntime", "openvino")
"""Backends with a runtime here. An engine of TensorRT exists only on its board, so its inference is not run."""

every_backend = pytest.mark.parametrize("name", TARGETS)
every_local_backend = pytest.mark.parametrize("name", LOCAL)


def backend_and_profile(name: BackendName) -> tuple[Backend, TargetProfile]:
    return BACKENDS[name], load_target(TARGETS[name])


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_every_backend_is_under_contract() -> None:
    """A new backend has to be added here."""
    assert set(TARGETS) == set(BACKENDS)
    assert all(BACKENDS[name].name == name for name in BACKENDS)


@every_backend
def test_compiling_leaves_the_listed_files_and_no_others(name: BackendName, tmp_path: Path) -> None:
    """All files exist, the artifact is one of them, or else there is a reason; the model is as it was."""
    backend, profile = backend_and_profile(name)
    model = save_tiny_model(tmp_path / "model.onnx")
    before = model.read_bytes()
    folder = tmp_path / "deep" / "compiled"
    compiled = backend.compile(model, folder, profile)
    assert files_below(folder) == {path.name for path in compiled.files if path != model}
    assert all(path.is_file() for path in compiled.files)
    assert (compiled.artifact is None) == (compiled.reason is not None)
    assert compiled.artifact is None or compiled.artifact in compiled.files
    assert model.read_bytes() == before


@every_backend
def test_compiling_twice_replaces_the_files(name: BackendName, tmp_path: Path) -> None:
    """The second result stands where the first one stood."""
    backend, profile = backend_and_profile(name)
    model = save_tiny_model(tmp_path / "model.onnx")
    first = backend.compile(model, tmp_path / "compiled", profile)
    assert backend.compile(model, tmp_path / "compiled", profile) == first


@every_local_backend
@pytest.mark.parametrize("samples", [1, 3])
def test_a_runner_computes_what_the_model_says(name: BackendName, samples: int, tmp_path: Path) -> None:
    """The reference is ONNX's own evaluator; three samples go one at a time through the static batch of 1."""
    backend, profile = backend_and_profile(name)
    model = save_tiny_model(tmp_path / "model.onnx")
    x = images(samples)
    evaluator = ReferenceEvaluator(str(model))
    expected = np.concatenate([np.asarray(next(iter(evaluator.run(None, {"x": row[None]})))) for row in x])
    with backend.runner(backend.compile(model, tmp_path / "compiled", profile), threads=1) as runner:
        outputs = runner.infer({"x": x})
    assert set(outputs) == {"y"}
    assert outputs["y"].dtype == np.float32
    assert np.linalg.norm(outputs["y"] - expected) <= 1e-5 * np.linalg.norm(expected)


@every_local_backend
def test_a_wrong_feed_is_refused_by_name(name: BackendName, tmp_path: Path) -> None:
    """The message names the file, what came and what the model takes."""
    backend, profile = backend_and_profile(name)
    compiled = backend.compile(save_tiny_model(tmp_path / "model.onnx"), tmp_path / "compiled", profile)
    with backend.runner(compiled, threads=1) as runner, pytest.raises(KronexportError, match=r"model\.\w+: .*'z'.*'x'"):
        runner.infer({"z": images()})


@every_backend
def test_a_missing_model_is_the_users_error(name: BackendName, tmp_path: Path) -> None:
    """Exit code 2, the path in the message, and nothing left behind."""
    backend, profile = backend_and_profile(name)
    with pytest.raises(UserInputError, match=r"absent\.onnx: no such model file"):
        backend.compile(tmp_path / "absent.onnx", tmp_path / "compiled", profile)
    assert files_below(tmp_path) <= {"compiled"}


@every_backend
@pytest.mark.parametrize("damage", ["garbage", "truncated"])
def test_what_is_no_model_is_refused(name: BackendName, damage: str, tmp_path: Path) -> None:
    """The error names the file, and nothing half-written is left."""
    backend, profile = backend_and_profile(name)
    model = save_tiny_model(tmp_path / "model.onnx")
    whole = model.read_bytes()
    model.write_bytes(b"this is no model" * 20 if damage == "garbage" else whole[: len(whole) // 2])
    with pytest.raises(KronexportError, match=r"model\.onnx"):
        backend.compile(model, tmp_path / "compiled", profile)
    assert files_below(tmp_path) <= {"model.onnx", "compiled"}


@every_local_backend
def test_a_missing_runtime_is_found_before_any_work(name: BackendName, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 3, with the command that installs it."""
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingRuntimeError, match=f"pip install {name}"):
        BACKENDS[name].require()
    with pytest.raises(MissingRuntimeError, match=f"pip install {name}"):
        require_runtime(load_target(TARGETS[name]))


@every_local_backend
def test_compiling_without_the_runtime_says_so(
    name: BackendName, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same error as from ``require``, whatever was called first."""
    backend, profile = backend_and_profile(name)
    model = save_tiny_model(tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingRuntimeError, match=f"pip install {name}"):
        backend.compile(model, tmp_path / "compiled", profile)


def test_tensorrt_has_nothing_to_run_here(tmp_path: Path) -> None:
    """Its runner tells why instead of measuring something else."""
    backend, profile = backend_and_profile("tensorrt")
    compiled = backend.compile(save_tiny_model(tmp_path / "model.onnx"), tmp_path / "compiled", profile)
    assert compiled.reason == "not measured: no device"
    with pytest.raises(MissingRuntimeError, match="not measured: no device"), backend.runner(compiled, threads=1):
        pytest.fail("there is no engine to enter with")
