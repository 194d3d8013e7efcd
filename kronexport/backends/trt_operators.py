"""Whether TensorRT's parser takes a model, checked without a device against the table that it publishes.

The table, ``trt_operators.json``, is that of the release; for releases later than all that are known it is the last
known one, and the note says so. It lists operators, the types of their data and what else they ask for in words, of
which those rules are checked here that a lowered network can break.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from kronexport.backends.trt_model import opset_of
from kronexport.backends.trtexec import release_numbers
from kronexport.errors import KronexportError

if TYPE_CHECKING:
    import onnx

SHOWN: Final = 5
"""Complaints that an error names."""

_AXES_INPUT: Final = {"Slice": 3, "Pad": 3}
"""Which input the axes are; of other operators the second."""

_READ_AS: Final = {"INT64": "INT32", "DOUBLE": "FP32"}
"""What the parser makes of types, where the release has no others."""


@dataclass(frozen=True, slots=True)
class OperatorTable:
    """Of one release. ``exact``: it is the release that was asked for, not the last one before it."""

    release: str
    exact: bool
    max_opset: int
    operators: dict[str, dict[str, Any]]


def table_for(version: str) -> OperatorTable:
    """The parser's table of a release of TensorRT, or the last one known before it.

    Raises:
        UserInputError: the version is no version.
        KronexportError: it is older than all tables.
    """
    numbers = release_numbers(version)
    tables = [(*_span(name), name) for name in _releases()]
    before = [(first, last, name) for first, last, name in tables if first <= numbers]
    if not before:
        raise KronexportError(f"TensorRT {version}: no table of operators; expected {tables[0][2]} or later")
    _, last, name = max(before)
    row = _releases()[name]
    return OperatorTable(name, numbers <= last, row["max_opset"], row["operators"])


def check_operators(model: "onnx.ModelProto", version: str, place: str) -> str:
    """What was checked, as a note for the report.

    Args:
        model: with all its types known.
        version: of TensorRT.
        place: of the model, for the message.

    Raises:
        KronexportError: the parser would refuse it; names nodes, operators, types, and what to do.
    """
    table = table_for(version)
    complaints = [*_opset_complaints(model, table), *_node_complaints(model, table)]
    if complaints:
        more = f"; and {len(complaints) - SHOWN} more" if len(complaints) > SHOWN else ""
        raise KronexportError(
            f"{place}: TensorRT {version} would refuse it, by the operators of {table.release}: "
            f"{'; '.join(complaints[:SHOWN])}{more}"
        )
    kinds = len({node.op_type for node in model.graph.node})
    known = "" if table.exact else f", the last one known; {version} itself was not checked"
    return (
        f"static check without a device: {len(model.graph.node)} nodes of {kinds} operators, their types, opset "
        f"{opset_of(model)}, zero points and int8 groups, by the parser's table of TensorRT {table.release}{known}"
    )


@cache
def _releases() -> dict[str, Any]:
    text = resources.files("kronexport.backends").joinpath("trt_operators.json").read_text(encoding="utf-8")
    releases: dict[str, Any] = json.loads(text)["releases"]
    return releases


def _span(name: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and last release of "10.0-10.1"; twice the same of "8.6"."""
    first, _, last = name.partition("-")
    return release_numbers(first), release_numbers(last or first)


def _opset_complaints(model: "onnx.ModelProto", table: OperatorTable) -> Iterator[str]:
    if opset_of(model) > table.max_opset:
        yield f"opset {opset_of(model)}, expected at most {table.max_opset}: build with a --target of that opset"


def _node_complaints(model: "onnx.ModelProto", table: OperatorTable) -> Iterator[str]:
    from kronexport.precision.groups import refused_groups  # noqa: PLC0415  loads onnx

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    types = _types(model)
    for node in model.graph.node:
        where = f"{node.op_type} {node.name!r}"
        row = table.operators.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if row is None:
            yield f"{where}: no such operator there; replace it in the model, or build for a later JetPack"
            continue
        data = node.input[0] if node.input else node.output[0]
        found = types.get(data)
        if found is not None and found not in row["types"] and _READ_AS.get(found) not in row["types"]:
            yield f"{where}: data of {found}, expected {', '.join(row['types'])}; build in another --precision"
        yield from (f"{where}: {complaint}" for complaint in _rule_complaints(node, row["restrictions"], constants))
    makers = {output: node.op_type for node in model.graph.node for output in node.output}
    refused = refused_groups(model.graph)
    for node in model.graph.node:
        if node.name in refused and makers.get(node.input[1]) == "DequantizeLinear":
            yield (
                f"Conv {node.name!r}: {refused[node.name]} in int8, expected multiples of 4 in and out: "
                "quantize it in the symmetric scheme, which leaves it in float"
            )


def _rule_complaints(
    node: "onnx.NodeProto", restrictions: str, constants: "dict[str, onnx.TensorProto]"
) -> Iterator[str]:
    """What the table says in words, as far as lowered networks have such nodes."""
    import onnx  # noqa: PLC0415

    if "zero_point` must be" in restrictions:
        zero = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None  # noqa: PLR2004
        if zero is None or zero.data_type != onnx.TensorProto.INT8 or onnx.numpy_helper.to_array(zero).any():
            yield "zero point, expected a constant 0 of INT8: quantize it in the symmetric scheme"
    if "`Indices` output tensor unsupported" in restrictions and len(node.output) > 1:
        yield "its indices are read, expected its first output alone"
    if "`axes` must be" in restrictions:
        index = _AXES_INPUT.get(node.op_type, 1)
        if len(node.input) > index and node.input[index] and node.input[index] not in constants:
            yield "axes that are computed, expected a constant"
    if "`dilations` must be empty or all ones" in restrictions:
        dilations = [step for attribute in node.attribute if attribute.name == "dilations" for step in attribute.ints]
        if any(step != 1 for step in dilations):
            yield f"dilations {dilations}, expected ones"


def _types(model: "onnx.ModelProto") -> dict[str, str]:
    """The type of each value in the words of the table."""
    import onnx  # noqa: PLC0415

    words = {"FLOAT": "FP32", "FLOAT16": "FP16", "BFLOAT16": "BF16"}
    typed = onnx.shape_inference.infer_shapes(model)
    values = (*typed.graph.input, *typed.graph.value_info, *typed.graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    kinds |= {tensor.name: tensor.data_type for tensor in typed.graph.initializer}
    named = {name: onnx.TensorProto.DataType.Name(kind) for name, kind in kinds.items() if kind}
    return {name: words.get(kind, kind) for name, kind in named.items()}
