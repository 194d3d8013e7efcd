"""A small report and a small real bundle for the tests of shipping."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kronexport.agent import open_session, runtime_version
from kronexport.backends.tensorrt import NO_DEVICE
from kronexport.records import (
    Check,
    GoalResult,
    LatencyStats,
    LayerFigures,
    ModelFigures,
    ParetoPoint,
    Report,
    Skipped,
    Speedup,
    TargetReport,
)
from kronexport.ship.bundle import write_bundle
from kronexport.ship.golden import Golden
from kronexport.ship.manifest import Manifest, build_manifest, requirement

LATENCY = LatencyStats(n=1234, min=0.5, mean=0.8125, std=0.0625, p50=0.7656, p90=0.9, p95=0.9375, p99=1.5)
PARETO = (
    ParetoPoint(1.0, 1.0, 1.0, 0.0, "measured", chosen=False),
    ParetoPoint(0.8, 0.625, 0.5, 0.125, "mixed", chosen=True),
    ParetoPoint(0.3, 0.25, 0.125, 0.5, "mixed", chosen=False),
)
HOSTILE_SITE = "layer1.<script>alert(1)</script>"
LAYER = LayerFigures(
    site=HOSTILE_SITE,
    method="gkpd",
    structure="16x16x3x1 * 4x4x1x3",
    ranks=(8,),
    lowering="folded",
    params=6528,
    macs=1048576,
    rel_error=0.0312,
    dense_params=13056,
    dense_macs=4194304,
)


def figures(**changes: Any) -> ModelFigures:
    values: dict[str, Any] = {
        "params": 269722,
        "macs": 40813184,
        "bytes": 1083412,
        "latency_ms": LATENCY,
        "peak_memory_bytes": 7340032,
        "build_peak_memory_bytes": 9437184,
        "accuracy": 91.25,
    }
    return ModelFigures(**(values | changes))


def target_report(**changes: Any) -> TargetReport:
    values: dict[str, Any] = {
        "precision": "fp32",
        "environment": {"cpu": "Example CPU", "clocks": {"governor": None}, "cores": 2},
        "protocol": {"mode": "closed loop", "rounds": 20},
        "skipped": (Skipped("stem", "grouped convolution"),),
        "pareto": PARETO,
        "unmeasured": {"layers.dense_us": "no profiling run", "layers.us": "no profiling run"},
        "goals": (GoalResult("params<=0.6", 0.55, met=True),),
        "dense": figures(),
        "compressed": figures(params=134861, accuracy=90.75),
        "speedup": Speedup(1.25, (1.2, 1.3), "faster"),
        "verification": (
            Check("factorized", "dense", 0.5, 0.125, None, None),
            Check("portable", "factorized", 1e-6, 2e-7, 1e-5, passed=True),
        ),
        "layers": (LAYER,),
        "notes": ("factors are fitted to the weights alone",),
    }
    return TargetReport(**(values | changes))


def report(**changes: Any) -> Report:
    return Report("sample:resnet20", {"x86-onnxruntime": target_report(**changes)})


def unmeasured_target() -> TargetReport:
    """As on a machine without the device: no latency, memory, accuracy, speed-up, goal or compiled check."""
    nothing = dict.fromkeys(("latency_ms", "peak_memory_bytes", "build_peak_memory_bytes", "accuracy"))
    keys = [f"{side}.{key}" for side in ("dense", "compressed") for key in nothing]
    keys += ["speedup", "goals.latency<=0.5", "verification.compiled", "layers.dense_us", "layers.us"]
    return target_report(
        dense=figures(**nothing),
        compressed=figures(**nothing),
        speedup=None,
        goals=(GoalResult("latency<=0.5", None, None),),
        verification=(Check("compiled", "simplified", None, None, 1e-5, None),),
        unmeasured=dict.fromkeys(keys, NO_DEVICE),
    )


def write_model(path: Path, *, domain: str = "", batch: int | str = 1) -> Path:
    """A model of one Conv followed by one operator of ``domain``, opset 17 and IR 8, input [batch, 3, 8, 8]."""
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "weight"], ["features"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["features"], ["output"], domain=domain),
        ],
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, 4, 8, 8])],
        [numpy_helper.from_array(weight, "weight")],
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def manifest(model_onnx: Path, **changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "model": "sample:resnet20",
        "target": "x86-onnxruntime",
        "artifact": "model.onnx",
        "precision": "fp32",
        "threads": 1,
        "runtime_options": {},
        "requires": requirement("onnxruntime", runtime_version("onnxruntime"), None),
        "tolerance": 1e-5,
        "kronexport_version": "0.1.0",
        "rebuild": "kronexport build sample:resnet20 --target cpu",
        "protocol": {"rounds": 20},
    }
    return build_manifest(model_onnx, **(values | changes))


def golden(model_onnx: Path) -> Golden:
    """What the model really gives for one seeded input."""
    inputs = {"input": np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    return Golden(inputs, open_session("onnxruntime", str(model_onnx), 1).run(inputs))


def bundle(folder: Path, model_onnx: Path, **changes: Any) -> Path:
    """A real bundle in ``folder``; ``changes`` are those of the manifest."""
    write_bundle(
        folder,
        model_onnx=model_onnx,
        compiled_files=(model_onnx,),
        golden=golden(model_onnx),
        manifest=manifest(model_onnx, **changes),
    )
    return folder
