"""Jobs for a machine: small ones, that are over in a moment."""

from pathlib import Path
from typing import Any

import numpy as np

from kronexport import agent
from tests.measure.samples import INPUT, SHAPE, save_model


def bench_job(folder: Path, **changes: Any) -> dict[str, Any]:
    """A bench job of one model that works, but for ``changes``."""
    return {
        "task": "bench",
        "runtime": "onnxruntime",
        "threads": 1,
        "options": {},
        "models": [{"name": "tiny", "path": str(save_model(folder / "model.onnx"))}],
        "input": {"name": INPUT, "shape": list(SHAPE)},
        "warmup_seconds": 0,
        "seconds": 0.01,
        "rounds": 1,
        "seed": 0,
        **changes,
    }


def infer_job(folder: Path) -> dict[str, Any]:
    """A job with files in both directions; its outputs go to ``folder``/outputs.npz."""
    agent.write_npz(str(folder / "inputs.npz"), {INPUT: np.ones(SHAPE, np.float32)})
    return {
        "task": "infer",
        "runtime": "onnxruntime",
        "threads": 1,
        "options": {},
        "models": [{"name": "tiny", "path": str(save_model(folder / "model.onnx"))}],
        "inputs_npz": str(folder / "inputs.npz"),
        "outputs_npz": str(folder / "outputs.npz"),
        "most": None,
    }
