from datetime import datetime, timedelta
from pathlib import Path

import pytest

from kronexport.errors import KronexportError
from kronexport.ship.manifest import requirement, session_options
from tests.ship.samples import manifest, write_model


def test_every_key_of_the_contract_is_written(tmp_path: Path) -> None:
    value = manifest(write_model(tmp_path / "model.onnx")).to_json()
    assert next(iter(value)) == "schema"
    assert set(value) == {
        "schema",
        "model",
        "target",
        "backend",
        "artifact",
        "precision",
        "input",
        "outputs",
        "opset",
        "ir_version",
        "threads",
        "runtime_options",
        "requires",
        "golden",
        "kronexport_version",
        "created",
        "rebuild",
        "protocol",
        "versions",
        "dynamic_batch",
        "allow_fallback",
        "files",
        "compatibility",
    }
    assert value["golden"] == {"file": "golden.npz", "tolerance": 1e-5, "metric": "rel_l2"}
    assert set(value["requires"]) == {"runtime", "version", "rule", "machine", "gpu", "sm"}
    assert datetime.fromisoformat(value["created"]).utcoffset() == timedelta(0)


def test_tensors_and_versions_are_those_of_the_file_that_ships(tmp_path: Path) -> None:
    value = manifest(write_model(tmp_path / "model.onnx")).to_json()
    assert value["input"] == {"name": "input", "shape": (1, 3, 8, 8), "dtype": "float32"}
    assert value["outputs"] == ({"name": "output", "shape": (1, 4, 8, 8)},)
    assert (value["opset"], value["ir_version"]) == (17, 8)


def test_model_with_operators_that_are_not_standard_may_not_ship(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.onnx", domain="com.kronexport")
    with pytest.raises(KronexportError, match=r"com\.kronexport::Relu"):
        manifest(path)


def test_dynamic_shape_is_refused_by_name(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.onnx", batch="batch")
    with pytest.raises(KronexportError, match=r"input has shape \['batch', 3, 8, 8\], expected a static one"):
        manifest(path)


def test_engine_needs_its_exact_runtime_and_portable_files_the_least() -> None:
    assert requirement("tensorrt", "8.6.2", ("aarch64",)).rule == "exact"
    assert requirement("openvino", "2026.1", None).rule == "minimum"
    assert requirement("onnxruntime", "1.23.0", ("x86_64", "AMD64")).machine == ("x86_64", "AMD64")


def test_what_decides_where_a_bundle_runs_is_in_its_key(tmp_path: Path) -> None:
    """Schema, runtime and version, machines, GPUs and precision; nothing of the network."""
    model = write_model(tmp_path / "model.onnx")
    requires = requirement("onnxruntime", "1.23.0", ("x86_64", "AMD64"))
    assert (
        manifest(model, requires=requires).to_json()["compatibility"] == "1;onnxruntime>=1.23.0;x86_64,AMD64;any;fp32"
    )
    board = requirement("tensorrt", "8.6.2", ("aarch64",), ("nvidia,tegra234",), "8.7")
    key = "1;tensorrt==8.6.2;aarch64;nvidia,tegra234 sm8.7;fp16"
    assert manifest(model, requires=board, artifact=None, precision="fp16").to_json()["compatibility"] == key
    assert manifest(model, requires=requires, model="other").to_json()["compatibility"].startswith("1;onnxruntime>=")


def test_options_are_all_that_a_session_is_opened_with() -> None:
    """So that a bundle does not depend on what a later agent takes for granted."""
    assert session_options("onnxruntime") == {"graph_optimization": "all", "spinning": True}
    assert session_options("openvino") == {"inference_precision": "f32"}
    assert session_options("tensorrt") == {}
