"""A model in float as the same in FP16: types in the ONNX, so that no runtime has a choice.

Weights and values are FLOAT16, the graph's inputs and outputs stay float, with a Cast at the border. Nodes that are
named stay in float, with a Cast wherever a value passes from one kind to the other: between two of them it stays float.
What an operator takes as FP16 is read from its definition at the model's opset (``onnx.defs``).
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir

from kronexport.errors import UserInputError
from kronexport.precision.casts import Casts

FLOAT: Final = ir.DataType.FLOAT
HALF: Final = ir.DataType.FLOAT16
KINDS: Final = (FLOAT, HALF)


@dataclass(frozen=True, slots=True)
class _Types:
    """The type variable of each input and output of a node, and those of them that may be float or FP16.

    A type that is fixed, such as that of Resize's scales, is its own variable and may not.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    free: frozenset[str]

    @classmethod
    def of(cls, node: ir.Node, opset: int) -> "_Types":
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
        free = {
            constraint.type_param_str
            for constraint in schema.type_constraints
            if {"tensor(float)", "tensor(float16)"} <= set(constraint.allowed_type_strs)
        }
        return cls(
            tuple(_variables(schema.inputs, len(node.inputs))),
            tuple(_variables(schema.outputs, len(node.outputs))),
            frozenset(free),
        )

    @property
    def made(self) -> frozenset[str]:
        """The variables of what the node makes out of what it reads: a Cast's result is of another."""
        return self.free & set(self.inputs) & set(self.outputs)


def half(model: ir.Model, keep_float: Collection[str] = ()) -> ir.Model:
    """The model in FP16 but for the nodes named in ``keep_float``, as a copy of the same names, opset and metadata.

    Args:
        model: standard operators, types on all values.
        keep_float: names of nodes.

    Raises:
        UserInputError: a node holds a graph of its own.
    """
    typed = model.clone()
    casts = Casts(typed.graph)
    opset = typed.opset_imports[""]
    for node in list(typed.graph):
        _convert(node, opset, casts, keep=node.name in keep_float)
    for index, value in enumerate(typed.graph.outputs):
        if value.dtype == HALF:
            typed.graph.outputs[index] = casts.at_the_end(value, FLOAT)
    casts.tidy()
    return typed


def half_layer(model: ir.Model) -> ir.Model:
    """One layer as it stands in an FP16 network: its inputs and outputs are FP16, too."""
    layer = half(model)
    for node in [node for node in layer.graph if node.op_type == "Cast"]:
        source, result = node.inputs[0], node.outputs[0]
        if source is not None and source.is_graph_input() and result.dtype == HALF:
            source.type = ir.TensorType(HALF)
            result.replace_all_uses_with(source)
            layer.graph.remove(node, safe=True)
        elif source is not None and result.is_graph_output() and source.dtype == HALF:
            layer.graph.outputs[layer.graph.outputs.index(result)] = source
            layer.graph.remove(node, safe=True)
            source.name = result.name
    return layer


def half_nodes(model: ir.Model) -> list[str]:
    """Names of the nodes that ``half`` converts where they are not kept: those that make float values of such."""
    opset = model.opset_imports[""]
    return [str(node.name) for node in model.graph if _is_float(node) and _Types.of(node, opset).made]


def rounded(model: ir.Model) -> ir.Model:
    """A model in float that computes what one in FP16 does: every FP16 value is rounded to FP16 after its node.

    ONNX Runtime computes FP16 models in float where the CPU has no FP16, and does not round between nodes: there they
    do not overflow. Sums within a node are float, as FP16 kernels have them.

    Args:
        model: as ``half`` gives it.
    """
    emulated = model.clone()
    casts = Casts(emulated.graph)
    for value in emulated.graph.initializers.values():
        if value.dtype == HALF and value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            value.type = ir.TensorType(FLOAT)
    for node in list(emulated.graph):
        for value in node.outputs:
            if value.dtype == HALF:
                casts.round_behind(value)
    return emulated


def _convert(node: ir.Node, opset: int, casts: Casts, *, keep: bool) -> None:
    """Give the node what it reads in its own kind, and its outputs that kind."""
    if not _is_float(node):
        return
    types = _Types.of(node, opset)
    if types.made:
        kind = FLOAT if keep else HALF
    else:  # it makes no floats, or such of a type of their own: it reads what there is
        computed = {value.dtype for value in node.inputs if value is not None and not value.is_initializer()}
        kind = HALF if computed == {HALF} else FLOAT
    for index, (value, variable) in enumerate(zip(node.inputs, types.inputs, strict=True)):
        if value is not None and value.dtype in KINDS:
            node.replace_input_with(index, casts.of(value, kind if variable in types.free else FLOAT))
    for value, variable in zip(node.outputs, types.outputs, strict=True):
        if value.dtype == FLOAT and variable in types.made:
            value.type = ir.TensorType(kind)  # a type may be shared with the model that was cloned


def _is_float(node: ir.Node) -> bool:
    """Whether it reads float values; UserInputError if it holds a graph."""
    if any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()
    ):
        raise UserInputError(
            f"fp16: {node.name}: {node.op_type} holds a graph of its own, expected none; "
            f"make the model without data-dependent control flow, or give --precision fp32"
        )
    return any(value is not None and value.dtype in KINDS for value in node.inputs)


def _variables(formal: Sequence[onnx.defs.OpSchema.FormalParameter], count: int) -> Iterator[str]:
    """The type variable of each of ``count`` inputs or outputs; the last formal one repeats where it is variadic."""
    for index in range(count):
        yield formal[min(index, len(formal) - 1)].type_str
