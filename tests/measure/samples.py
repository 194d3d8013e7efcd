"""Tiny real models and a bundle around one, for the tests of what runs and measures them."""

import hashlib
import json
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from kronexport import agent

INPUT = "image"
OUTPUT = "features"
SHAPE = (2, 3, 6, 5)


def weight(channels: int = 4) -> NDArray[np.float32]:
    """Values [channels, 3, 1, 1] that every call gives alike."""
    return np.random.default_rng(7).standard_normal((channels, 3, 1, 1)).astype(np.float32)


def save_model(path: Path, *, batch: int | str = SHAPE[0], channels: int = 4) -> Path:
    """A pointwise conv, [batch, 3, 6, 5] to [batch, channels, 6, 5], without bias; opset 17, IR 8."""
    node = helper.make_node("Conv", [INPUT, "weight"], [OUTPUT], name="conv")
    graph = helper.make_graph(
        [node],
        "tiny",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [batch, *SHAPE[1:]])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [batch, channels, *SHAPE[2:]])],
        [numpy_helper.from_array(weight(channels), "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def images(count: int = SHAPE[0]) -> NDArray[np.float32]:
    """Seeded input [count, 3, 6, 5]."""
    return np.random.default_rng(1).standard_normal((count, *SHAPE[1:])).astype(np.float32)


def expected(inputs: NDArray[np.float32], channels: int = 4) -> NDArray[np.float64]:
    """What the model computes, by its definition, in float64."""
    pointwise = weight(channels)[:, :, 0, 0].astype(np.float64)
    return np.asarray(np.einsum("fc,nchw->nfhw", pointwise, inputs.astype(np.float64)), dtype=np.float64)


def manifest(runtime: str, artifact: str | None = "model.onnx") -> dict[str, Any]:
    """manifest.json of the bundle: any version of the runtime, this machine."""
    return {
        "schema": 1,
        "model": "tiny",
        "target": "test",
        "backend": runtime,
        "artifact": artifact,
        "precision": "fp32",
        "input": {"name": INPUT, "shape": list(SHAPE), "dtype": "float32"},
        "outputs": [{"name": OUTPUT, "shape": [SHAPE[0], 4, *SHAPE[2:]]}],
        "opset": 17,
        "ir_version": 8,
        "threads": 1,
        "runtime_options": {},
        "requires": {"runtime": runtime, "version": "1.0", "rule": "minimum", "machine": [platform.machine()]},
        "golden": {"file": "golden.npz", "tolerance": 1e-5, "metric": "rel_l2"},
        "kronexport_version": "0.1.0",
        "created": "2026-01-01T00:00:00+00:00",
        "rebuild": "kronexport build REBUILD-COMMAND",
    }


def save_bundle(folder: Path, runtime: str = "onnxruntime") -> Path:
    """A bundle as it is shipped, run.py included."""
    folder.mkdir()
    save_model(folder / "model.onnx")
    inputs = images()
    golden = {f"input:{INPUT}": inputs, f"output:{OUTPUT}": expected(inputs).astype(np.float32)}
    np.savez(folder / "golden.npz", **golden)  # type: ignore[arg-type]  # numpy types the keywords as allow_pickle
    shutil.copyfile(agent.__file__, folder / "run.py")
    save_manifest(folder, manifest(runtime))
    return folder


def save_manifest(folder: Path, value: dict[str, Any]) -> None:
    """Writes the manifest and seals the folder again."""
    (folder / "manifest.json").write_text(json.dumps(value), encoding="utf-8")
    seal(folder)


def seal(folder: Path) -> None:
    """Writes SHA256SUMS for the files as they are now."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")
