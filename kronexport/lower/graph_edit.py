"""Small edits of a graph: read constants of a node, swap its inputs, replace it."""

import itertools
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

# --- read -----------------------------------------------------------------------------------------------------


SITE_MARK = "kronexport.site"
"""In the ``meta`` of a node, which is not written to files: it stands for a factorized layer."""


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    """Input ``index``, or None if it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def constant_array(value: ir.Value | None) -> NDArray[Any] | None:
    """What ``value`` always holds; None if it is left out, computed or can be given at run time."""
    tensor = None if value is None or value.is_graph_input() else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def constant_integers(value: ir.Value) -> tuple[int, ...] | None:
    """The integers that ``value`` always holds; None if it is computed or can be given at run time."""
    array = constant_array(value)
    return None if array is None else tuple(int(element) for element in array.ravel())


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of ``value``; None if it is left out, unknown or dynamic."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(size) for size in value.shape.numpy())


def only_reader(value: ir.Value) -> ir.Node | None:
    """The node that alone reads ``value``; None if others do, or the graph returns it."""
    uses = tuple(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


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


def set_constant(node: ir.Node, index: int, role: str, array: NDArray[Any]) -> None:
    """Let constant input ``index`` of ``node`` hold ``array``; other readers of it keep what it held."""
    old = input_of(node, index)
    if old is None or not old.is_initializer() or only_reader(old) is None:
        set_input(node, index, add_constant(node, role, array))
        return
    old.const_value = ir.tensor(array, name=old.name)
    old.shape = ir.Shape(array.shape)


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
    _name_after(node, inner)
    last.name = node.name
    last.metadata_props.update(node.metadata_props)
    ir.convenience.replace_nodes_and_values(graph, node, [node], tape.nodes, [output], [last.outputs[0]])


def insert_behind(node: ir.Node, tape: ir.tape.Tape) -> None:
    """Put the nodes of ``tape`` behind ``node``, named after its first output, with the node's metadata."""
    _name_after(node, tape.nodes)
    graph_of(node).insert_after(node, tape.nodes)


def _name_after(node: ir.Node, nodes: Sequence[ir.Node]) -> None:
    """Name new ``nodes`` and what they make after the first output of ``node``, and give them its metadata."""
    for index, new in enumerate(nodes):
        new.name = new.outputs[0].name = _unused_name(graph_of(node), f"{node.outputs[0].name}_{index}_{new.op_type}")
        new.metadata_props.update(node.metadata_props)


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
