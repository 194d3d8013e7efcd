"""What a graph needs to hold, counted from its shapes: weights, and the images that are alive at once.

A runtime may need less, where it computes in place or fuses, or more, where it pads, packs weights or plans badly; the
measured peak stands beside it.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from kronexport.errors import UserInputError

VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "DequantizeLinear"})
"""Operators whose result is their first input in another way: it takes no memory of its own.

An operator in int8 reads the integers behind a DequantizeLinear.
"""
ACTIVATIONS = frozenset({"Relu", "Clip"})
"""Operators that a kernel in int8 computes along with the layer before them."""


@dataclass(frozen=True, slots=True)
class GraphMemory:
    """Bytes. ``activations``: the most that is alive while one node runs, in the order of the graph.

    A value is alive from the node that makes it to the last one that reads it or a view of it; the graph's inputs from
    the start, its outputs to the end. While a node runs, all that it reads and writes is alive.
    """

    weights: int
    activations: int


def graph_memory(model: ir.Model) -> GraphMemory:
    """Of the main graph, at its static shapes.

    Raises:
        UserInputError: a shape is missing or symbolic, which names the value.
    """
    graph = model.graph
    weights = sum(value.const_value.nbytes for value in graph.initializers.values() if value.const_value is not None)
    buffers = _Buffers(set(graph.initializers.values()))
    last_read = {buffers.of(value): -1 for value in graph.inputs}
    nodes = list(graph)
    for position, node in enumerate(nodes):
        for value in (*node.inputs, *node.outputs):
            if value is not None and not buffers.is_constant(value):
                last_read[buffers.of(value)] = position
    for value in graph.outputs:
        last_read[buffers.of(value)] = len(nodes)
    alive = {buffers.of(value) for value in graph.inputs}
    most = _bytes(alive)
    for position, node in enumerate(nodes):
        alive |= {buffers.of(value) for value in node.outputs if not buffers.is_constant(value)}
        most = max(most, _bytes(alive))
        alive = {buffer for buffer in alive if last_read[buffer] > position}
    return GraphMemory(weights, most)


class _Buffers:
    """Which value holds the memory of another one.

    What an operator in int8 makes is written as the integers that a QuantizeLinear behind it gives.
    """

    def __init__(self, constants: set[ir.Value]) -> None:
        self._constants = constants

    def of(self, value: ir.Value) -> ir.Value:
        """The value that ``value`` is a view of, or is written as; itself if it is neither."""
        value = _source(value, VIEWS)
        node = value.producer()
        return _integers(value) if node is not None and _reads_integers(node) else value

    def is_constant(self, value: ir.Value) -> bool:
        """Whether it is a weight, a view of one, or a constant of the graph."""
        source = _source(value, VIEWS | {"QuantizeLinear"})
        node = source.producer()
        return source in self._constants or (node is not None and node.op_type == "Constant")


def _source(value: ir.Value, operators: Collection[str]) -> ir.Value:
    """What nodes of ``operators`` made ``value`` of, one after the other; itself where another one made it."""
    node = value.producer()
    while node is not None and node.op_type in operators and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _reads_integers(node: ir.Node) -> bool:
    makers = [value.producer() for value in node.inputs if value is not None]
    return any(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers)


def _integers(value: ir.Value) -> ir.Value:
    """What the one QuantizeLinear that reads ``value``, directly or behind an activation, makes of it."""
    result = value
    while not result.is_graph_output() and len(result.uses()) == 1:
        ((reader, _),) = result.uses()
        if reader.op_type == "QuantizeLinear":
            return reader.outputs[0]
        if reader.op_type not in ACTIVATIONS:
            break
        result = reader.outputs[0]
    return value


def _bytes(values: set[ir.Value]) -> int:
    return sum(map(_size, values))


def _size(value: ir.Value) -> int:
    shape, dtype = value.shape, value.dtype
    if shape is None or dtype is None or not all(isinstance(size, int) for size in shape.dims):
        raise UserInputError(f"{value.name}: shape {shape} is not static, so its memory cannot be counted")
    return math.ceil(math.prod(int(str(size)) for size in shape.dims) * dtype.itemsize)
