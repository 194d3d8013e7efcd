"""What TensorRT is given: a model.onnx, and which precision its nodes ask for.

The precision is in the model itself: Q/DQ pairs are int8, FP16 types are fp16, anything else is fp32.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from kronexport.backends.profile import Precision, Route, TargetProfile
from kronexport.backends.trtexec import release_numbers
from kronexport.errors import KronexportError, UserInputError

if TYPE_CHECKING:
    import onnx

COMPUTING: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that have a weight: those whose precision was asked for."""

_LAST_WEAKLY_TYPED: Final = 8
_QDQ: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})


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


def batch_of(model: "onnx.ModelProto") -> int:
    """Samples at once of a model whose batch is static; 0 where it is dynamic."""
    return int(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value)


def route_of(model: "onnx.ModelProto") -> Route:
    """How the model's precision is reached: by its Q/DQ pairs, its FP16 types, or not at all.

    A model in FP16 whose weights all stay in float has Casts to FP16 still.
    """
    import onnx  # noqa: PLC0415

    half = onnx.TensorProto.FLOAT16
    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        return "qdq-symmetric"
    casts = (attribute.i for node in model.graph.node if node.op_type == "Cast" for attribute in node.attribute)
    if half in casts or any(tensor.data_type == half for tensor in model.graph.initializer):
        return "fp16-onnx"
    return "float-onnx"


def asked_precisions(model: "onnx.ModelProto") -> dict[str, Precision]:
    """By name of each node that has a weight, the precision that it asks for.

    int8: its data and its weight come out of a DequantizeLinear. fp16: its weight is FP16. A MatMul of two activations
    has no weight, and asks for nothing.
    """
    import onnx  # noqa: PLC0415

    makers = {output: node for node in model.graph.node for output in node.output}
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    asked: dict[str, Precision] = {}
    for node in model.graph.node:
        weight = node.input[1] if node.op_type in COMPUTING else ""
        while weight in makers and makers[weight].op_type in _QDQ:
            weight = makers[weight].input[0]
        if weight not in kinds:
            continue
        if all(name in makers and makers[name].op_type == "DequantizeLinear" for name in node.input[:2]):
            asked[node.name] = "int8"
        else:
            asked[node.name] = "fp16" if kinds[weight] == onnx.TensorProto.FLOAT16 else "fp32"
    return asked


def weak_typing_note(model: "onnx.ModelProto", version: str) -> tuple[str, ...]:
    """That nodes kept in float may run in FP16: up to release 8 the builder may choose it, whatever their type."""
    kept = [name for name, precision in asked_precisions(model).items() if precision == "fp32"]
    if route_of(model) != "fp16-onnx" or not kept or release_numbers(version)[0] > _LAST_WEAKLY_TYPED:
        return ()
    return (
        f"TensorRT {version} may run the {len(kept)} nodes in FP16 that the model keeps in float; 10 and later obey",
    )
