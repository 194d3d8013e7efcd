"""Build, prove, check and time, over trtexec's double of each release: numbers are ONNX Runtime's, times made up."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from kronexport import agent
from kronexport.backends.trt_engine import Here, TrtEngine, build_engine, installed_release
from kronexport.backends.trt_model import asked_precisions, route_of
from kronexport.backends.trt_precision import ProvenPrecision
from kronexport.backends.trtexec import DIALECTS
from kronexport.errors import KronexportError, MissingRuntimeError, UserInputError, VerificationError
from tests.backends.double import save_double
from tests.backends.models import images, quantized_tiny_model, save_tiny_model

every_release = pytest.mark.parametrize("release", [dialect.release for dialect in DIALECTS])


def built(
    folder: Path, release: str = "8.6", *, quantize: bool = False, fallback: str = "", allow: bool = False
) -> tuple[TrtEngine, ProvenPrecision]:
    work = folder / "work"
    work.mkdir(exist_ok=True)
    path = save_tiny_model(folder / "tiny.onnx", opset=13, ir_version=7)
    shutil.copy(path, folder / "float.onnx")
    if quantize:
        quantized_tiny_model(path)
    model = onnx.load(path)
    return build_engine(
        Here(work, str(save_double(folder / "trtexec", release, fallback))),
        path.read_bytes(),
        "model.engine",
        route=route_of(model),
        asked=asked_precisions(model),
        workspace_mib=64,
        allow_fallback=allow,
    )


@every_release
@pytest.mark.parametrize("quantize", [False, True], ids=["fp32", "int8"])
def test_an_engine_is_built_proven_checked_and_timed(release: str, tmp_path: Path, *, quantize: bool) -> None:
    """By the options of each release: a double refuses all others."""
    engine, proven = built(tmp_path, release, quantize=quantize)
    assert proven.found == {"conv": "int8" if quantize else "fp32"}
    x = images(3)
    evaluator = ReferenceEvaluator(str(tmp_path / "float.onnx"))
    expected = np.concatenate([np.asarray(next(iter(evaluator.run(None, {"x": row[None]})))) for row in x])
    outputs = engine.infer({"x": x}, batch=1)
    assert set(outputs) == {"y"}
    assert agent.rel_l2(outputs["y"], expected) < (0.05 if quantize else 1e-5)
    assert engine.times_ms() == (5.0, 6.0, 7.0, 8.0), "those of the double after two seconds of warm-up"
    assert [layer.name for layer in engine.profile()] == ["first", "second"]


@pytest.mark.parametrize(
    ("release", "version"),
    [("8.2", "8.2.1"), ("8.6", "8.6.2"), ("10.3", "10.3.0"), ("10.16", "10.16.0"), ("11.0", "11.4.1")],
)
def test_the_release_is_what_the_banner_says(release: str, version: str, tmp_path: Path) -> None:
    place = Here(tmp_path, str(save_double(tmp_path / "trtexec", release)))
    assert installed_release(place) == version


def test_an_engine_that_is_not_as_asked_gets_no_name(tmp_path: Path) -> None:
    """Exit code 4: int8 was asked for, FP32 built, and trtexec ended well."""
    with pytest.raises(VerificationError, match=r"conv \(fp32 instead of int8\)"):
        built(tmp_path, quantize=True, fallback="conv")
    assert not (tmp_path / "work" / "model.engine").exists()
    _, proven = built(tmp_path, quantize=True, fallback="conv", allow=True)
    assert proven.others == {"conv": "fp32 instead of int8"}


def test_what_trtexec_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    """Q/DQ by a route that does not tell the builder of int8."""
    path = quantized_tiny_model(save_tiny_model(tmp_path / "tiny.onnx"))
    place = Here(tmp_path, str(save_double(tmp_path / "trtexec")))
    with pytest.raises(
        KronexportError, match=r"trtexec cannot build the engine \(exit code 1\): .*\[E\] Int8 precision"
    ):
        build_engine(place, path.read_bytes(), "model.engine", route="float-onnx", asked={}, workspace_mib=64)
    assert not (tmp_path / "model.engine").exists()


def test_a_damaged_engine_is_told(tmp_path: Path) -> None:
    engine, _ = built(tmp_path)
    (tmp_path / "work" / "model.engine").write_bytes(b"damaged")
    with pytest.raises(KronexportError, match=r"cannot run the engine.*deserialization failed"):
        engine.infer({"x": images()}, batch=1)


def test_samples_that_are_no_whole_batches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="got 3 samples, expected a multiple of the static batch 2"):
        built(tmp_path)[0].infer({"x": images(3)}, batch=2)


def test_no_trtexec_ends_with_the_command_that_installs_it(tmp_path: Path) -> None:
    with pytest.raises(MissingRuntimeError, match="sudo apt-get install tensorrt"):
        installed_release(Here(tmp_path, str(tmp_path / "absent")))


def test_another_program_is_no_trtexec(tmp_path: Path) -> None:
    with pytest.raises(KronexportError, match="no release of TensorRT in what it printed"):
        installed_release(Here(tmp_path, "/bin/echo"))


def test_every_line_of_the_double_says_that_it_is_one(tmp_path: Path) -> None:
    place = Here(tmp_path, str(save_double(tmp_path / "trtexec")))
    ended = place.run((place.trtexec, "--stronglyTyped"))
    assert ended.code == 1
    assert "Unknown option: --stronglyTyped" in ended.output
    assert all(line.startswith("[double, not TensorRT] ") for line in ended.output.splitlines())
