"""What opset steps read of a node, and how they say that they cannot: the text is the reason and the remedy."""

import onnx_ir as ir

from kronexport.lower.graph_edit import constant_integers, input_of


class CannotStepDownError(Exception):
    """The node says something that the earlier version has no words for; the text is the reason and the remedy."""


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
