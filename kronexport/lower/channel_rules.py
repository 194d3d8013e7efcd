"""How each operator carries an order of channels: what its other values must then be in, and which constants change.

A value holds its channels in its axis 1. If it is stored as x' = x[:, o], an operator may ask the same of its other
values, so that the node computes what it did, in that order:

    alike for every channel    f(x[:, o]) = f(x)[:, o]                          Relu, MaxPool, GlobalAveragePool ...
    a constant a channel       f(x[:, o], p[o]) = f(x, p)[:, o]                 BatchNormalization, Add, Mul, PRelu ...
    flattened                  each channel is k neighbours: o becomes o k + 0 .. k-1
    Conv, Gemm, MatMul         W[p][:, o] x[:, o] + b[p] = (W x + b)[:, p]      o and p free of each other

In a Conv of several groups o moves channels within groups, or whole groups; p moves those groups alike, and filters
within each as it likes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from kronexport.lower.channel_orders import CannotReorderError, Order, narrowed, widened
from kronexport.lower.graph_edit import constant_array, constant_integers, input_of, static_shape

Orders = Mapping[ir.Value, Order]
Constants = dict[int, NDArray[Any]]
"""New content of a node's inputs, by index."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What one operator does with orders.

    Attributes:
        spread: (node, value, order) -> the orders that the node's values must have if ``value`` has ``order``, itself
            among them. Raises CannotReorderError.
        constants: (node, orders of all its values that have one) -> its constants in these orders.
    """

    spread: Callable[[ir.Node, ir.Value, Order], dict[ir.Value, Order]]
    constants: Callable[[ir.Node, Orders], Constants]


def spread(node: ir.Node, value: ir.Value, order: Order) -> dict[ir.Value, Order]:
    """What ``node`` asks of its values, ``value`` left out, once ``value`` is stored in ``order``.

    Raises:
        CannotReorderError: the node would compute something else.
    """
    rule = None if node.domain else RULES.get(node.op_type)
    if rule is None or any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        raise CannotReorderError(f"'{node.name}': {node.op_type} needs its channels as they are")
    asked = rule.spread(node, value, order)
    if value not in asked:
        raise CannotReorderError(f"'{node.name}': {node.op_type} reads '{value.name}' in another way")
    del asked[value]
    return asked


def reordered_constants(node: ir.Node, orders: Orders) -> Constants:
    """The constants that ``node`` needs for its values to be in ``orders``, by index of the input."""
    return RULES[node.op_type].constants(node, orders)


# --- alike for every channel ----------------------------------------------------------------------------------


def _no_constants(_node: ir.Node, _orders: Orders) -> Constants:
    return {}


def _ends(node: ir.Node) -> tuple[ir.Value, ir.Value]:
    value = input_of(node, 0)
    if value is None:
        raise CannotReorderError(f"'{node.name}': its input 0 is missing")
    return value, node.outputs[0]


def _spread_alike(node: ir.Node, _value: ir.Value, order: Order) -> dict[ir.Value, Order]:
    return dict.fromkeys(_ends(node), order)


def _spread_reduce(node: ir.Node, value: ir.Value, order: Order) -> dict[ir.Value, Order]:
    """Reductions over axes behind the channels."""
    axes, shape = input_of(node, 1), static_shape(node.inputs[0])
    reduced = None if axes is None else constant_integers(axes)
    if not reduced or shape is None or min(axis % len(shape) for axis in reduced) < 2:  # noqa: PLR2004  # N and C
        raise CannotReorderError(f"'{node.name}': {node.op_type} may reduce the channels")
    return _spread_alike(node, value, order)


def _spread_flat(node: ir.Node, value: ir.Value, order: Order) -> dict[ir.Value, Order]:
    """From [N, C, ...] to [N, C k, ...] or back, with nothing moved."""
    source, result = _ends(node)
    before, after = static_shape(source), static_shape(result)
    if before is None or after is None or before[0] != after[0] or min(len(before), len(after)) < 2:  # noqa: PLR2004
        raise CannotReorderError(f"'{node.name}': from {before} to {after} channels are lost")
    other, have, want = (result, before[1], after[1]) if value is source else (source, after[1], before[1])
    if max(have, want) % min(have, want):
        raise CannotReorderError(f"'{node.name}': from {before} to {after} channels are cut")
    return {value: order, other: widened(order, want // have) if want >= have else narrowed(order, have // want)}


# --- a constant a channel -------------------------------------------------------------------------------------


def _spread_broadcast(node: ir.Node, _value: ir.Value, order: Order) -> dict[ir.Value, Order]:
    """Elementwise operators of several inputs, which numpy's rule makes equal in shape."""
    output = node.outputs[0]
    shape = static_shape(output)
    if shape is None or len(shape) < 2:  # noqa: PLR2004  # N and C
        raise CannotReorderError(f"'{node.name}': the shape of its output is unknown")
    asked = {output: order}
    for given in node.inputs:
        size = _channels(given, len(shape))
        if given is None or constant_array(given) is not None or size == 1:
            continue
        if size != len(order) or len(static_shape(given) or ()) != len(shape):
            raise CannotReorderError(f"'{node.name}': '{given.name}' has no {len(order)} channels in its axis 1")
        asked[given] = order
    return asked


def _broadcast_constants(node: ir.Node, orders: Orders) -> Constants:
    order = orders[node.outputs[0]]
    rank = len(static_shape(node.outputs[0]) or ())
    found: Constants = {}
    for index, given in enumerate(node.inputs):
        array = constant_array(given)
        if array is not None and _channels(given, rank) == len(order):
            found[index] = np.take(array, order, axis=1 - rank + array.ndim)
    return found


def _channels(value: ir.Value | None, rank: int) -> int | None:
    """Size of the axis of ``value`` that meets axis 1 of ``rank``: 1 if it has none, None if it is unknown."""
    shape = static_shape(value)
    if shape is None:
        return None
    axis = 1 - rank + len(shape)
    return shape[axis] if axis >= 0 else 1


def _spread_norm(node: ir.Node, value: ir.Value, order: Order) -> dict[ir.Value, Order]:
    if any(constant_array(given) is None for given in node.inputs[1:]):
        raise CannotReorderError(f"'{node.name}': its parameters are no constants")
    return _spread_alike(node, value, order)


def _norm_constants(node: ir.Node, orders: Orders) -> Constants:
    order = orders[node.outputs[0]]
    arrays = [constant_array(given) for given in node.inputs]
    return {index: array[order] for index, array in enumerate(arrays) if array is not None}


# --- Conv -----------------------------------------------------------------------------------------------------


def _spread_conv(node: ir.Node, value: ir.Value, order: Order) -> dict[ir.Value, Order]:
    source, result = _ends(node)
    weight, bias = (constant_array(input_of(node, index)) for index in (1, 2))
    if weight is None or (bias is None and input_of(node, 2) is not None):
        raise CannotReorderError(f"'{node.name}': its weight or bias is no constant")
    group = node.attributes.get_int("group", 1)
    sizes = {source: weight.shape[1], result: weight.shape[0] // group}
    if value not in sizes:
        return {}
    groups = _order_of_groups(order, sizes[value])
    other = result if value is source else source
    if np.array_equal(groups, np.arange(group)):
        return {value: order}
    return {value: order, other: widened(groups, sizes[other])}


def _order_of_groups(order: Order, k: int) -> Order:
    """The order of whole groups of ``k`` channels, whatever the order within each."""
    blocks = (order // k).reshape(-1, k)
    if (blocks != blocks[:, :1]).any():
        raise CannotReorderError(f"the order tears groups of {k} channels apart")
    return blocks[:, 0]


def _conv_constants(node: ir.Node, orders: Orders) -> Constants:
    source, result = _ends(node)
    weight, bias = (constant_array(input_of(node, index)) for index in (1, 2))
    if weight is None:
        raise TypeError(f"'{node.name}' has no constant weight")
    filters, inputs = weight.shape[:2]
    group = node.attributes.get_int("group", 1)
    rows = orders.get(result, np.arange(filters))
    within = orders.get(source, np.arange(group * inputs)).reshape(group, inputs) % inputs
    columns = np.repeat(within, filters // group, axis=0)
    kernel = (1,) * (weight.ndim - 2)
    found: Constants = {1: np.take_along_axis(weight[rows], columns.reshape(*columns.shape, *kernel), axis=1)}
    if bias is not None:
        found[2] = bias[rows]
    return found


# --- Gemm, MatMul ---------------------------------------------------------------------------------------------


def _spread_product(node: ir.Node, value: ir.Value, order: Order) -> dict[ir.Value, Order]:
    """X [N, C] times a constant: the orders of both ends are free of each other."""
    weight, bias = (constant_array(input_of(node, index)) for index in (1, 2))
    if weight is None or weight.ndim != 2 or len(static_shape(node.inputs[0]) or ()) != 2:  # noqa: PLR2004
        raise CannotReorderError(f"'{node.name}': {node.op_type} is no product of [N, C] and a constant")
    if (bias is None and input_of(node, 2) is not None) or node.attributes.get_int("transA", 0) != 0:
        raise CannotReorderError(f"'{node.name}': {node.op_type} has a computed bias or a transposed input")
    return {value: order} if value in _ends(node) else {}


def _product_constants(node: ir.Node, orders: Orders) -> Constants:
    source, result = _ends(node)
    weight, bias = (constant_array(input_of(node, index)) for index in (1, 2))
    if weight is None:
        raise TypeError(f"'{node.name}' has no constant weight")
    inputs = node.attributes.get_int("transB", 0)
    if source in orders:
        weight = np.take(weight, orders[source], axis=inputs)
    found: Constants = {}
    if result in orders:
        weight = np.take(weight, orders[result], axis=1 - inputs)
        if bias is not None and bias.ndim and bias.shape[-1] > 1:
            found[2] = np.take(bias, orders[result], axis=-1)
    return {1: weight, **found}


# --- the table ------------------------------------------------------------------------------------------------

_ALIKE = Rule(_spread_alike, _no_constants)
_REDUCE = Rule(_spread_reduce, _no_constants)
_FLAT = Rule(_spread_flat, _no_constants)
_BROADCAST = Rule(_spread_broadcast, _broadcast_constants)
_NORM = Rule(_spread_norm, _norm_constants)
_PRODUCT = Rule(_spread_product, _product_constants)

ELEMENTWISE: Final = (
    *("Abs", "Ceil", "Clip", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity"),
    *("LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Softplus", "Softsign"),
    *("Sqrt", "Tanh", "ThresholdedRelu"),
)
"""Operators that do the same to each element and keep its type; what Clip reads besides is one number."""

RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(ELEMENTWISE, _ALIKE),
    **dict.fromkeys(("AveragePool", "Cast", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "MaxPool"), _ALIKE),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), _REDUCE),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _FLAT),
    **dict.fromkeys(("Add", "Div", "Max", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum"), _BROADCAST),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), _NORM),
    "Conv": Rule(_spread_conv, _conv_constants),
    **dict.fromkeys(("Gemm", "MatMul"), _PRODUCT),
}
"""By operator; any other needs its channels as they are."""
