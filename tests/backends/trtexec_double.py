#!/usr/bin/env python3
"""A double of trtexec for tests: it takes the options of one release and no others, and writes trtexec's JSON forms.

Every line that it prints says that it is a double. Outputs are those of ONNX Runtime, times and memory are made up:
nothing of it is a measurement. Settings are in its environment:

    TRTEXEC_DOUBLE_RELEASE   "8.6": whose options it takes
    TRTEXEC_DOUBLE_VERSION   "8602": what its banner says
    TRTEXEC_DOUBLE_FALLBACK  names of nodes, with commas, that it builds in FP32 whatever was asked for
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

RELEASE = os.environ.get("TRTEXEC_DOUBLE_RELEASE", "8.6")
VERSION = os.environ.get("TRTEXEC_DOUBLE_VERSION", "8602")
FALLBACK = set(filter(None, os.environ.get("TRTEXEC_DOUBLE_FALLBACK", "").split(",")))
OPTIONS = json.loads((Path(__file__).parent / "data" / "trtexec_options.json").read_text(encoding="utf-8"))["releases"]
MAGIC = b"engine of a double\n"
NUMBERS = tuple(map(int, RELEASE.split(".")))
MAJOR = NUMBERS[0]
FORMATS = {
    "fp32": "Float" if MAJOR >= 10 else "Row major linear FP32",
    "fp16": "Half" if MAJOR >= 10 else "Channel major FP16 format where channel % 8 == 0",
    "int8": "Int8" if MAJOR >= 10 else "Thirty-two wide channel vectorized row major Int8 format",
}
MANY = 1200
"""Inferences of a run that lasts: a line each, as of a fast engine, and more than the end of a log that is kept."""
COMPUTING = ("Conv", "Gemm", "MatMul")

Shapes = dict[str, list[int]]


def say(text: str) -> None:
    sys.stdout.write(f"[double, not TensorRT] {text}\n")


class RefusedError(Exception):
    """What trtexec would end with an error for."""


def options_of(arguments: list[str]) -> dict[str, str]:
    """Values by name; an option that the release does not know is refused."""
    found = {}
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name not in OPTIONS[RELEASE]:
            raise RefusedError(f"Unknown option: {argument}")
        found[name] = value
    return found


def shapes_of(text: str) -> Shapes:
    """Of ``x:1x3x8x8,y:1x4``."""
    pairs = (part.rpartition(":") for part in text.split(",") if part)
    return {name: [int(size) for size in sizes.split("x")] for name, _, sizes in pairs}


def build(options: dict[str, str]) -> None:
    import onnx  # noqa: PLC0415  only here: timing must start fast

    model = onnx.load(options["onnx"])
    onnx.checker.check_model(model)
    quantized = any(node.op_type == "DequantizeLinear" for node in model.graph.node)
    typed = MAJOR >= 11 or "stronglyTyped" in options
    if quantized and not typed and "int8" not in options:
        raise RefusedError("Int8 precision has been set for a layer or layer output, but int8 is not configured")
    if "timingCacheFile" in options:
        cache = Path(options["timingCacheFile"])
        say(f"{'Loaded' if cache.is_file() else 'No'} timing cache")
        cache.write_bytes(b"timings of a double")
    layers = list(layers_of(model, weak_half="fp16" in options))
    about = {"layers": [layer["Name"] for layer in layers], "range": range_of(model, options)}
    Path(options["saveEngine"]).write_bytes(MAGIC + json.dumps(about).encode() + b"\n" + model.SerializeToString())
    if "exportLayerInfo" in options:
        detailed = options.get("profilingVerbosity") == "detailed"
        text = {"Layers": layers if detailed else about["layers"], "Bindings": ["x", "y"]}
        Path(options["exportLayerInfo"]).write_text(json.dumps(text), encoding="utf-8")
    if NUMBERS >= (8, 5):
        say("[I] [MemUsageStats] Peak memory usage of TRT CPU/GPU memory allocators: CPU 3 MiB, GPU 5 MiB")


def range_of(model: "onnx.ModelProto", options: dict[str, str]) -> list[Shapes]:
    """Least and greatest shapes; nothing of a model whose shapes are static."""
    dims = [dim for value in model.graph.input for dim in value.type.tensor_type.shape.dim]
    if all(dim.dim_value for dim in dims):
        return []
    if not {"minShapes", "optShapes", "maxShapes"} <= set(options):
        raise RefusedError("Dynamic dimensions required for input, but no shapes were provided")
    return [shapes_of(options["minShapes"]), shapes_of(options["maxShapes"])]


def layers_of(model: "onnx.ModelProto", *, weak_half: bool) -> Iterator[dict[str, Any]]:
    makers = {output: node.op_type for node in model.graph.node for output in node.output}
    half = {tensor.name for tensor in model.graph.initializer if tensor.data_type == 10}
    for index, node in enumerate(model.graph.node):
        if node.op_type not in COMPUTING:
            continue
        precision = "fp16" if weak_half or half.intersection(node.input) else "fp32"
        if all(makers.get(name) == "DequantizeLinear" for name in node.input[:2]):
            precision = "int8"
        if node.name in FALLBACK:
            precision = "fp32"
        tensor = {"Location": "Device", "Dimensions": [1], "Format/Datatype": FORMATS[precision]}
        yield {
            "Name": f"__myl_{node.op_type}_{index}" if MAJOR >= 10 else f"{node.name} + relu",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": node.input[0], **tensor}],
            "Outputs": [{"Name": node.output[0], **tensor}],
            "TacticName": "double",
            "Metadata": f"[ONNX Layer: {node.name}]\u001f[ONNX Layer: relu]" if MAJOR >= 10 else "",
        }


def infer(options: dict[str, str]) -> None:
    data = Path(options["loadEngine"]).read_bytes()
    if not data.startswith(MAGIC):
        raise RefusedError("Engine deserialization failed")
    text, _, model = data.removeprefix(MAGIC).partition(b"\n")
    about = json.loads(text)
    shapes = running_shapes(about["range"], options)
    graph = "noCudaGraph" not in options if MAJOR >= 11 else "useCudaGraph" in options
    transfers = "includeDataTransfers" in options if MAJOR >= 11 else "noDataTransfers" not in options
    if NUMBERS >= (8, 5):
        managed = "TensorRT-managed allocation in IExecutionContext creation"
        say(f"[I] [MemUsageChange] {managed}: CPU +0, GPU +1, now: CPU 1, GPU 6 (MiB)")
    for _ in range(MANY if float(options.get("duration", "3")) else int(options.get("iterations", "10"))):
        say("[I] Average on 1 runs - GPU latency: 1.000 ms - Host latency: 1.000 ms (enqueue 1.000 ms)")
    if "exportTimes" in options:
        write_times(options, len(about["layers"]))
    if "exportProfile" in options:
        names = [] if graph else [*about["layers"], "Reformatting CopyNode for Input Tensor 0 to first"]
        rows = [{"count": 9}, *map(profile_row, names)]
        Path(options["exportProfile"]).write_text(json.dumps(rows), encoding="utf-8")
    if "exportOutput" in options:
        write_outputs(model, options, shapes, transfers=transfers)


def running_shapes(allowed: list[Shapes], options: dict[str, str]) -> Shapes:
    """Those that a dynamic engine is told, which has to be within its range; none of a static one."""
    if not allowed:
        if "shapes" in options:
            raise RefusedError("shapes of an engine whose shapes are static")
        return {}
    shapes, (least, most) = shapes_of(options.get("shapes", "")), allowed
    for name, shape in least.items():
        if not all(low <= got <= high for low, got, high in zip(shape, shapes[name], most[name], strict=True)):
            raise RefusedError(f"{name}: {shapes[name]} does not satisfy any optimization profiles")
    return shapes


def profile_row(name: str) -> dict[str, object]:
    return {"name": name, "timeMs": 9.0, "averageMs": 1.0, "medianMs": 1.0, "percentage": 50.0}


def write_times(options: dict[str, str], layers: int) -> None:
    """Made up: an inference each 500 ms that takes 1, 2, 3 ... ms a layer, those of the warm-up too."""
    rows = []
    for index in range(8):
        start, takes = 500.0 * index, (index + 1) * layers
        row = {"startEnqMs": start, "endEnqMs": start, "startH2dMs": start, "endH2dMs": start}
        row |= {"startComputeMs": start, "endComputeMs": start + takes, "startD2hMs": start, "endD2hMs": start}
        rows.append(row | {"h2dMs": 0, "computeMs": takes, "d2hMs": 0, "latencyMs": takes})
    Path(options["exportTimes"]).write_text(json.dumps(rows), encoding="utf-8")


def write_outputs(model: bytes, options: dict[str, str], shapes: Shapes, *, transfers: bool) -> None:
    """By ONNX Runtime; without transfers the host's buffers stay as they were: zeros."""
    import numpy as np  # noqa: PLC0415
    import onnxruntime as ort  # noqa: PLC0415

    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    files = dict(pair.split(":", 1) for pair in options["loadInputs"].split(","))
    feeds = {}
    for value in session.get_inputs():
        raw = np.frombuffer(Path(files[value.name]).read_bytes(), np.float32)
        feeds[value.name] = raw.reshape(shapes.get(value.name, value.shape))
    rows = []
    for value, array in zip(session.get_outputs(), session.run(None, feeds), strict=True):
        shown = np.asarray(array) if transfers else np.zeros_like(array)
        values = [float(number) for number in shown.ravel()]
        rows.append({"name": value.name, "dimensions": "x".join(map(str, array.shape)), "values": values})
    Path(options["exportOutput"]).write_text(json.dumps(rows), encoding="utf-8")


def main(arguments: list[str]) -> int:
    say(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{VERSION}] # trtexec {' '.join(arguments)}")
    try:
        options = options_of(arguments)
        if "help" not in options:
            (build if "onnx" in options else infer)(options)
    except RefusedError as error:
        say(f"[E] {error}")
        say("&&&& FAILED TensorRT.trtexec")
        return 1
    say("&&&& PASSED TensorRT.trtexec")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
