"""A lowered graph for any batch, out of the same graph lowered at two.

Lowering works on static shapes: so forms are merged and shuffles absorbed as for one batch. What depends on the batch
is what differs between the graphs of two: with b and c samples, a size s of the one and t of the other that is

    s / b = t / c = k        is k N for a batch of N samples

and in the target of a Reshape it becomes -1, and what was -1 the size that follows. The emitter (``lower/emit.py``)
writes -1 wherever the batch is, whatever axes a placement folds into it: so every form can be written for any batch,
and only what the model itself does may be refused here:

- a Reshape of two sizes that depend on the batch, such as one that moves samples between two axes;
- any other constant that depends on it, such as the shape of an Expand, or the sizes of a Resize that are no whole
  multiples of those that it reads, which are written as scales;
- a graph that is another one at another batch.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import ShapeInferencePass

from kronexport.errors import UserInputError
from kronexport.lower.graph_edit import add_constant, constant_array, input_of, set_constant, set_input, static_shape
from kronexport.lower.standard import check_standard
from kronexport.records import BATCH_SYMBOL

_SCALES, _SIZES = 2, 3
"""Inputs of a Resize, of which it has one."""

REMEDY = "leave out --dynamic-batch, or write the model alike for every batch"


def with_dynamic_batch(model: ir.Model, other: ir.Model) -> ir.Model:
    """A copy of ``model`` whose batch is symbolic.

    Args:
        model: lowered, with static shapes, the batch first in its inputs.
        other: lowered from the same network at another batch, no multiple of that of ``model``.

    Raises:
        UserInputError: the network cannot be written for any batch, which names the node.
        VerificationError: the result is not a valid model of standard operators.
    """
    dynamic = model.clone()
    pair = _Pair(_batch(model), _batch(other))
    nodes, others = tuple(dynamic.graph), tuple(other.graph)
    if [_operator(node) for node in nodes] != [_operator(node) for node in others]:
        raise UserInputError(
            f"dynamic batch: the network of {pair.first} samples has other operators than that of {pair.second}; "
            f"{REMEDY}"
        )
    for node, twin in zip(nodes, others, strict=True):
        _fit_constants(node, twin, pair)
    values = [*dynamic.graph.inputs, *(value for node in nodes for value in node.outputs)]
    twins = [*other.graph.inputs, *(value for node in others for value in node.outputs)]
    for value, twin_value in zip(values, twins, strict=True):
        value.shape = _symbolic(value, twin_value, pair)
    check_standard(dynamic)
    return dynamic


def at_batch(model: ir.Model, batch: int) -> ir.Model:
    """``model`` with static shapes, for ``batch`` samples, as a copy; itself where its input has a static shape."""
    if all(value.shape is not None and value.shape.is_static() for value in model.graph.inputs):
        return model
    static = model.clone()
    for value in static.graph.inputs:
        if value.shape is not None and isinstance(value.shape[0], ir.SymbolicDim):
            value.shape = ir.Shape([batch, *value.shape.dims[1:]])
    for value in (*static.graph.outputs, *(value for node in static.graph for value in node.outputs)):
        if value.shape is not None and not value.shape.is_static():
            value.shape = None
    return ShapeInferencePass(strict_mode=True)(static).model


class _Pair:
    """The two batches."""

    def __init__(self, first: int, second: int) -> None:
        if first == second:
            raise ValueError(f"got a batch of {first} twice, expected two")
        self.first, self.second = first, second

    def multiple(self, size: int, other: int) -> int | None:
        """How often the batch is in a size; None if the sizes are not in proportion to the batches."""
        whole = size % self.first == 0 and size * self.second == other * self.first
        return size // self.first if whole else None


def _fit_constants(node: ir.Node, twin: ir.Node, pair: _Pair) -> None:
    """Let the constants of ``node`` serve any batch."""
    for index in range(len(node.inputs)):
        ours, theirs = (constant_array(input_of(each, index)) for each in (node, twin))
        if ours is None or theirs is None:
            continue
        if ours.shape == theirs.shape and np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f"):
            continue
        if node.op_type == "Resize" and _scale(node, twin):
            continue
        if node.op_type != "Reshape" or ours.shape != theirs.shape:
            raise _refused(node, pair, "has a constant that depends on the batch")
        targets = _written_out(ours, node.outputs[0]), _written_out(theirs, twin.outputs[0])
        set_constant(node, index, "shape", _target(node, *targets, pair))


def _scale(node: ir.Node, twin: ir.Node) -> bool:
    """Whether a Resize to sizes could become one by whole scales, which are the same for any batch."""
    scales = []
    for one in (node, twin):
        given, wanted = static_shape(input_of(one, 0)), static_shape(one.outputs[0])
        if not given or not wanted or any(large % small for large, small in zip(wanted, given, strict=True)):
            return False
        scales.append([large // small for large, small in zip(wanted, given, strict=True)])
    if scales[0] != scales[1]:
        return False
    set_input(node, _SIZES, None)
    set_input(node, _SCALES, add_constant(node, "scales", np.array(scales[0], np.float32)))
    return True


def _target(node: ir.Node, ours: NDArray[Any], theirs: NDArray[Any], pair: _Pair) -> NDArray[np.int64]:
    """The target of a Reshape that is ``ours`` at the first batch and ``theirs`` at the second."""
    differing = np.flatnonzero(ours != theirs)
    (place, *more) = (int(index) for index in differing)
    if more or -1 in ours or pair.multiple(int(ours[place]), int(theirs[place])) is None:
        raise _refused(node, pair, f"has sizes that depend on the batch: {ours.tolist()} and {theirs.tolist()}")
    target = ours.astype(np.int64)
    target[place] = -1
    return target


def _written_out(target: NDArray[Any], output: ir.Value) -> NDArray[Any]:
    """``target`` with the size that its -1 stands for, where that is known."""
    shape = static_shape(output)
    return target if shape is None else np.where(target == -1, shape, target)


def _symbolic(value: ir.Value, twin: ir.Value, pair: _Pair) -> ir.Shape | None:
    """The shape for any batch: N where the batch alone is, unnamed where it is a part."""
    ours, theirs = static_shape(value), static_shape(twin)
    if ours is None or theirs is None or len(ours) != len(theirs):
        return None
    sizes: list[int | str | None] = []
    for size, other in zip(ours, theirs, strict=True):
        multiple = pair.multiple(size, other)
        sizes.append(size if size == other else BATCH_SYMBOL if multiple == 1 else None)
    return ir.Shape(sizes)


def _batch(model: ir.Model) -> int:
    """The first size of the one input; UserInputError where there is none."""
    shape = static_shape(model.graph.inputs[0])
    if len(model.graph.inputs) != 1 or not shape:
        raise UserInputError(f"dynamic batch: expected one input of a static shape, got {model.graph.inputs}")
    return shape[0]


def _operator(node: ir.Node) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """All of a node but what it reads and how it is called."""
    attributes = sorted((name, str(attribute.value)) for name, attribute in node.attributes.items())
    return node.domain, node.op_type, tuple(attributes)


def _refused(node: ir.Node, pair: _Pair, why: str) -> UserInputError:
    return UserInputError(
        f"dynamic batch: {node.name}: {node.op_type} {why} (at {pair.first} and {pair.second} samples); {REMEDY}"
    )
