"""The small edits that opset steps are made of: read constants and shapes of a node, swap its inputs, replace it."""

import itertools
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray


class CannotStepDownError(Exception):
    """The node says something that the earlier version has no words for; the text is the reason and the remedy."""


# --- read -----------------------------------------------------------------------------------------------------


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    """Input ``index``, or None if it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def constant_integers(value: ir.Value) -> tuple[int, ...] | None:
    """The integers that ``value`` always holds; None if it is computed or can be given at run time."""
    tensor = None if value.is_graph_input() else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tuple(int(element) for element in tensor.numpy().ravel())


def input_integers(node: ir.Node, index: int, role: str) -> tuple[int, ...] | None:
    """The integers of input ``index``, or None if it is left out; raises CannotStepDownError if it is no constant."""
    value = input_of(node, index)
    if value is None:
        return None
    integers = constant_integers(value)
    if integers is None:
        raise CannotStepDownError(
            f"its input {role} ('{value.name}') must be a constant, but it is computed; make it one"
        )
    return integers


def input_shape(node: ir.Node, index: int) -> tuple[int | ir.SymbolicDim, ...]:
    """The shape of input ``index``; raises CannotStepDownError if its rank is unknown."""
    value = input_of(node, index)
    if value is None or value.shape is None:
        raise CannotStepDownError(f"the rank of its input {index} must be known; export with static shapes")
    return value.shape.dims


def static_size(node: ir.Node, index: int, axis: int) -> int:
    """Size of one axis of input ``index``; raises CannotStepDownError if it is dynamic."""
    size = input_shape(node, index)[axis]
    if not isinstance(size, int):
        raise CannotStepDownError(
            f"axis {axis} of its input {index} must have a known size, got {size}; export it static"
        )
    return size


# --- write ----------------------------------------------------------------------------------------------------


def graph_of(node: ir.Node) -> ir.Graph:
    """The main graph that ``node`` is in."""
    if not isinstance(node.graph, ir.Graph):
        raise TypeError(f"node '{node.name}' is in no graph")
    return node.graph


def add_constant(node: ir.Node, role: str, array: NDArray[Any]) -> ir.Value:
    """A new initializer for ``node``, named after its first output and the ``role`` it plays."""
    graph = graph_of(node)
    name = _unused_name(graph, f"{node.outputs[0].name}_{role}")
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def set_input(node: ir.Node, index: int, value: ir.Value | None) -> None:
    """Give input ``index`` to ``node``, or with None leave it out; a constant that nothing else reads goes with it."""
    old = input_of(node, index)
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)
    while node.inputs and node.inputs[-1] is None:
        node.resize_inputs(len(node.inputs) - 1)
    if old is not None:
        _remove_unread_constant(graph_of(node), old)


def replace(node: ir.Node, tape: ir.tape.Tape) -> None:
    """Put the nodes of ``tape`` in the place of ``node``: the last one takes its name and makes its first output.

    The others and what they make are named after that output; all carry the node's metadata.
    """
    graph, output = graph_of(node), node.outputs[0]
    *inner, last = tape.nodes
    for index, new in enumerate(inner):
        new.name = new.outputs[0].name = _unused_name(graph, f"{output.name}_{index}_{new.op_type}")
    last.name = node.name
    for new in tape.nodes:
        new.metadata_props.update(node.metadata_props)
    ir.convenience.replace_nodes_and_values(graph, node, [node], tape.nodes, [output], [last.outputs[0]])


def _unused_name(graph: ir.Graph, wanted: str) -> str:
    """``wanted``, with a number behind it if a value or node has that name: two would overwrite each other."""
    names = {*ir.convenience.create_value_mapping(graph), *(node.name for node in graph)}
    candidates = itertools.chain((wanted,), (f"{wanted}_{number}" for number in itertools.count(1)))
    return next(name for name in candidates if name not in names)


def _remove_unread_constant(graph: ir.Graph, value: ir.Value) -> None:
    if value.uses() or value.is_graph_input() or value.is_graph_output():
        return
    producer = value.producer()
    if producer is None:
        graph.initializers.pop(str(value.name))
    elif producer.op_type == "Constant":
        graph.remove(producer, safe=True)
