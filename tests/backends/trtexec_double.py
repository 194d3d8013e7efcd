#!/usr/bin/env python3
"""A double of trtexec for tests: it takes the options of one release and no others, and writes trtexec's JSON forms.

Every line that it prints says that it is a double. Outputs are those of ONNX Runtime, times are made up: nothing of
it is a measurement. Settings are in its environment:

    TRTEXEC_DOUBLE_RELEASE   "8.6": whose options it takes
    TRTEXEC_DOUBLE_VERSION   "8602": what its banner says
    TRTEXEC_DOUBLE_FALLBACK  names of nodes, with commas, that it builds in FP32 whatever was asked for
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

RELEASE = os.environ.get("TRTEXEC_DOUBLE_RELEASE", "8.6")
VERSION = os.environ.get("TRTEXEC_DOUBLE_VERSION", "8602")
FALLBACK = set(filter(None, os.environ.get("TRTEXEC_DOUBLE_FALLBACK", "").split(",")))
OPTIONS = json.loads((Path(__file__).parent / "data" / "trtexec_options.json").read_text(encoding="utf-8"))["releases"]
MAGIC = b"engine of a double\n"
MAJOR = int(RELEASE.split(".")[0])
FORMATS = {
    "fp32": "Float" if MAJOR >= 10 else "Row major linear FP32",
    "fp16": "Half" if MAJOR >= 10 else "Channel major FP16 format where channel % 8 == 0",
    "int8": "Int8" if MAJOR >= 10 else "Thirty-two wide channel vectorized row major Int8 format",
}
COMPUTING = ("Conv", "Gemm", "MatMul")


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


def build(options: dict[str, str]) -> None:
    model = onnx.load(options["onnx"])
    onnx.checker.check_model(model)
    quantized = any(node.op_type == "DequantizeLinear" for node in model.graph.node)
    typed = MAJOR >= 11 or "stronglyTyped" in options
    if quantized and not typed and "int8" not in options:
        raise RefusedError("Int8 precision has been set for a layer or layer output, but int8 is not configured")
    if "timingCacheFile" in options:
        Path(options["timingCacheFile"]).write_bytes(b"timings of a double")
    Path(options["saveEngine"]).write_bytes(MAGIC + model.SerializeToString())
    if "exportLayerInfo" in options:
        layers = list(layers_of(model, weak_half="fp16" in options))
        detailed = options.get("profilingVerbosity") == "detailed"
        text = {"Layers": layers if detailed else [layer["Name"] for layer in layers], "Bindings": ["x", "y"]}
        Path(options["exportLayerInfo"]).write_text(json.dumps(text), encoding="utf-8")


def layers_of(model: onnx.ModelProto, *, weak_half: bool) -> Iterator[dict[str, Any]]:
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
    graph = "noCudaGraph" not in options if MAJOR >= 11 else "useCudaGraph" in options
    transfers = "includeDataTransfers" in options if MAJOR >= 11 else "noDataTransfers" not in options
    if "exportTimes" in options:
        write_times(options)
    if "exportProfile" in options:
        rows = [] if graph else [profile_row("first"), profile_row("second")]
        Path(options["exportProfile"]).write_text(json.dumps([{"count": 9}, *rows]), encoding="utf-8")
    if "exportOutput" in options:
        write_outputs(data.removeprefix(MAGIC), options, transfers=transfers)


def profile_row(name: str) -> dict[str, object]:
    return {"name": name, "timeMs": 9.0, "averageMs": 1.0, "medianMs": 1.0, "percentage": 50.0}


def write_times(options: dict[str, str]) -> None:
    """Made up: an inference each 500 ms that takes 1, 2, 3 ... ms, those of the warm-up too."""
    rows = []
    for index in range(8):
        start = 500.0 * index
        row = {"startEnqMs": start, "endEnqMs": start, "startH2dMs": start, "endH2dMs": start}
        row |= {"startComputeMs": start, "endComputeMs": start + index + 1, "startD2hMs": start, "endD2hMs": start}
        rows.append(row | {"h2dMs": 0, "computeMs": index + 1, "d2hMs": 0, "latencyMs": index + 1})
    Path(options["exportTimes"]).write_text(json.dumps(rows), encoding="utf-8")


def write_outputs(model: bytes, options: dict[str, str], *, transfers: bool) -> None:
    """By ONNX Runtime; without transfers the host's buffers stay as they were: zeros."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    files = dict(pair.split(":", 1) for pair in options["loadInputs"].split(","))
    feeds = {
        value.name: np.frombuffer(Path(files[value.name]).read_bytes(), np.float32).reshape(value.shape)
        for value in session.get_inputs()
    }
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
