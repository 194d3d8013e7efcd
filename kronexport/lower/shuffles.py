"""Channel shuffles: Reshape, Transpose, Reshape that together do nothing but put channels into another order."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from kronexport.lower.channel_orders import CannotReorderError, Order, as_transpose, inverse, is_identity, narrowed
from kronexport.lower.graph_edit import add_constant, graph_of, insert_behind, only_reader, replace, static_shape

_FLAT_RANK: Final = 2
_IMAGE_RANK: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class Shuffle:
    """Nodes, each read by the next alone, that turn ``source`` [N, C, H, W] into ``result`` = source[:, order].

    Either may be [N, C·H·W] instead; ``order`` has the C channels. ``nodes`` holds at least one Transpose; ``shape`` is
    [N, ..., H, W] at one of them.
    """

    nodes: tuple[ir.Node, ...]
    shape: tuple[int, ...]
    order: Order

    @property
    def source(self) -> ir.Value:
        value = self.nodes[0].inputs[0]
        assert value is not None  # noqa: S101  # a Reshape has an input; this tells mypy
        return value

    @property
    def result(self) -> ir.Value:
        return self.nodes[-1].outputs[0]

    @property
    def transposes(self) -> int:
        return sum(node.op_type == "Transpose" for node in self.nodes)

    def order_between(self, source: Order, result: Order) -> Order:
        """The order that is left for it to do once its ends are stored in the orders ``source`` and ``result``.

        Raises:
            CannotReorderError: an end is flattened, and its order tears channels apart.
        """
        ends = [narrowed(order, len(order) // len(self.order)) for order in (source, result)]
        return inverse(ends[0])[self.order[ends[1]]]


def find_shuffles(graph: ir.Graph) -> Iterator[Shuffle]:
    """The longest shuffles of ``graph``, none of which overlap; shapes must be known and static where they are."""
    seen: set[ir.Node] = set()
    for node in tuple(graph):
        if node.op_type == "Transpose" and node not in seen:
            shuffle = _around(node)
            if shuffle is not None:
                seen.update(shuffle.nodes)
                yield shuffle


def rewrite(shuffle: Shuffle, order: Order) -> Shuffle | None:
    """Let ``shuffle`` do ``order`` instead, with as many Transposes as ``transposes_of`` says.

    Returns the new one, or None if none is left.
    """
    last, source, result = shuffle.nodes[-1], shuffle.source, static_shape(shuffle.result)
    tape = ir.tape.Tape()
    value = source if is_identity(order) else _transposed(source, shuffle.shape, order, last, tape)
    if value is source and static_shape(source) == result:
        tape.op("Identity", [value])
    else:
        tape.op("Reshape", [value, _shape(last, "shape", result or ())])
    replace(last, tape)
    for node in reversed(shuffle.nodes[:-1]):
        graph_of(node).remove(node, safe=True)
    return None if value is source else Shuffle(tuple(tape.nodes), static_shape(value) or (), order)


def check_insert(value: ir.Value, order: Order) -> None:
    """Raise CannotReorderError where ``insert`` would: ``value`` is no image [N, C, H, W], or no Transpose does it."""
    if len(static_shape(value) or ()) != _IMAGE_RANK:
        raise CannotReorderError(f"'{value.name}' is no image")
    as_transpose(order)


def insert(value: ir.Value, order: Order, readers: Iterable[ir.Node]) -> Shuffle:
    """Let ``readers`` read ``value`` [N, C, H, W] in ``order``, by a new shuffle behind the node that makes it.

    Raises:
        CannotReorderError: see ``check_insert``.
    """
    check_insert(value, order)
    shape, producer = static_shape(value), value.producer()
    if shape is None or producer is None:
        raise TypeError(f"'{value.name}' is not made by a node")
    tape = ir.tape.Tape()
    moved = _transposed(value, shape, order, producer, tape)
    result = _typed(tape.op("Reshape", [moved, _shape(producer, "shape", shape)]), value, shape)
    insert_behind(producer, tape)
    for reader in readers:
        for index, given in enumerate(reader.inputs):
            if given is value:
                reader.replace_input_with(index, result)
    return Shuffle(tuple(tape.nodes), static_shape(moved) or (), order)


def _transposed(source: ir.Value, shape: tuple[int, ...], order: Order, owner: ir.Node, tape: ir.tape.Tape) -> ir.Value:
    """``source``, an image of the batch and size of ``shape``, split and transposed; ``owner`` names constants."""
    sizes, axes = as_transpose(order)
    batch, *_, height, width = shape
    split = batch, *sizes, height, width
    perm = 0, *(axis + 1 for axis in axes), len(sizes) + 1, len(sizes) + 2
    value = _typed(tape.op("Reshape", [source, _shape(owner, "split", split)]), source, split)
    return _typed(tape.op("Transpose", [value], {"perm": perm}), source, tuple(split[axis] for axis in perm))


def _typed(value: ir.Value, like: ir.Value, shape: tuple[int, ...]) -> ir.Value:
    value.type, value.shape = like.type, ir.Shape(shape)
    return value


def _shape(node: ir.Node, role: str, shape: tuple[int, ...]) -> ir.Value:
    return add_constant(node, role, np.array(shape, np.int64))


def _around(transpose: ir.Node) -> Shuffle | None:
    """The longest shuffle that holds ``transpose``."""
    inner = static_shape(transpose.inputs[0])
    if inner is None or not _keeps_ends(transpose, len(inner)):
        return None
    batch, image = inner[0], inner[-2:]
    before = _walk_up(transpose, batch, image)
    after = _walk_down(transpose, batch, image)
    nodes = (*before, transpose, *after)
    if not before or not after:
        return None
    order = np.arange(math.prod(inner[1:-2]))
    for node in nodes:
        if node.op_type == "Transpose":
            sizes = (static_shape(node.inputs[0]) or ())[1:-2]
            order = order.reshape(sizes).transpose([axis - 1 for axis in _perm(node)[1:-2]]).ravel()
    return Shuffle(nodes, inner, order)


def _walk_up(node: ir.Node, batch: int, image: tuple[int, ...]) -> tuple[ir.Node, ...]:
    """The moves before ``node`` from the first one that reads whole channels on."""
    nodes: list[ir.Node] = []
    longest = 0
    value = node.inputs[0]
    while value is not None and only_reader(value) is not None:
        producer = value.producer()
        if producer is None or not _is_move(producer, batch, image):
            break
        nodes.append(producer)
        value = producer.inputs[0]
        if _is_channels(value, batch, image):
            longest = len(nodes)
    return tuple(reversed(nodes[:longest]))


def _walk_down(node: ir.Node, batch: int, image: tuple[int, ...]) -> tuple[ir.Node, ...]:
    """The moves behind ``node`` up to the last one that makes whole channels."""
    nodes: list[ir.Node] = []
    longest = 0
    reader = only_reader(node.outputs[0])
    while reader is not None and _is_move(reader, batch, image):
        nodes.append(reader)
        if _is_channels(reader.outputs[0], batch, image):
            longest = len(nodes)
        reader = only_reader(reader.outputs[0])
    return tuple(nodes[:longest])


def _is_move(node: ir.Node, batch: int, image: tuple[int, ...]) -> bool:
    """Whether ``node`` is a Reshape, which moves nothing in memory, or a Transpose that moves channels alone."""
    if node.domain or node.op_type not in ("Reshape", "Transpose"):
        return False
    shape = static_shape(node.inputs[0])
    if node.op_type == "Reshape":
        return shape is not None
    return shape is not None and (shape[0], shape[-2:]) == (batch, image) and _keeps_ends(node, len(shape))


def _is_channels(value: ir.Value | None, batch: int, image: tuple[int, ...]) -> bool:
    """Whether ``value`` is [batch, C, *image] or [batch, C·H·W]."""
    shape = static_shape(value)
    return shape is not None and shape[:1] == (batch,) and (len(shape) == _FLAT_RANK or shape[2:] == image)


def _keeps_ends(transpose: ir.Node, rank: int) -> bool:
    """Whether batch, height and width stay where they are."""
    perm = _perm(transpose)
    return rank >= _IMAGE_RANK and perm[:1] == (0,) and perm[-2:] == (rank - 2, rank - 1)


def _perm(transpose: ir.Node) -> tuple[int, ...]:
    return tuple(transpose.attributes.get_ints("perm", ()))
