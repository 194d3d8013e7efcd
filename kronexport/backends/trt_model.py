"""What TensorRT is given: a model.onnx, and which precision its nodes ask for.

The precision is in the model itself: Q/DQ pairs are int8, FP16 types are fp16, anything else is fp32.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from kronexport.backends.profile import Precision, Route, TargetProfile
from kronexport.errors import KronexportError, UserInputError

if TYPE_CHECKING:
    import onnx

COMPUTING: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that have a weight: those whose precision was asked for."""


def read_model(path: Path, profile: TargetProfile) -> "onnx.ModelProto":
    """A valid model of at most the target's opset and IR version.

    Raises:
        UserInputError: There is no such file.
        KronexportError: It is no ONNX, or one that the board's parser does not read.
    """
    import onnx  # noqa: PLC0415  slow to load, and listing targets needs none of it

    if not path.is_file():
        raise UserInputError(f"{path}: no such model file; expected an .onnx")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's errors, and the checker's own
        raise KronexportError(f"{path}: not a valid ONNX model: {error}") from error
    opset = opset_of(model)
    if opset > profile.opset or model.ir_version > profile.ir_version:
        raise KronexportError(
            f"{path}: opset {opset}, IR {model.ir_version}; {profile.name} reads at most opset {profile.opset}, "
            f"IR {profile.ir_version}: lower it to these first"
        )
    return model


def opset_of(model: "onnx.ModelProto") -> int:
    """Of the standard operators."""
    return max(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def route_of(model: "onnx.ModelProto") -> Route:
    """How the model's precision is reached: by its Q/DQ pairs, its FP16 types, or not at all."""
    import onnx  # noqa: PLC0415

    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        return "qdq-symmetric"
    if any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer):
        return "fp16-onnx"
    return "float-onnx"


def asked_precisions(model: "onnx.ModelProto") -> dict[str, Precision]:
    """By name of each node that has a weight, the precision that it asks for.

    int8: its data and its weight come out of a DequantizeLinear. fp16: its weight is FP16.
    """
    import onnx  # noqa: PLC0415

    makers = {output: node.op_type for node in model.graph.node for output in node.output}
    half = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
    asked: dict[str, Precision] = {}
    for node in model.graph.node:
        if node.op_type not in COMPUTING:
            continue
        if all(makers.get(name) == "DequantizeLinear" for name in node.input[:2]):
            asked[node.name] = "int8"
        else:
            asked[node.name] = "fp16" if half.intersection(node.input) else "fp32"
    return asked
