"""Each operator computes what it did, in another order of channels, when its values and constants are in that order."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kronexport.lower.channel_orders import CannotReorderError, Order
from kronexport.lower.channel_rules import ELEMENTWISE, RULES, reordered_constants, spread
from kronexport.lower.graph_edit import set_constant, static_shape
from tests.lower.small_graphs import TOLERANCE, floats, graph, run

ORDER = np.array([3, 1, 5, 0, 4, 2])
POSITIVE: dict[str, NDArray[Any]] = dict(
    zip(("scale", "shift", "mean", "variance"), np.abs(floats(4, 6)) + np.float32(0.5), strict=True)
)
IMAGE = "float[2,6,3,4] x => float[2,6,3,4] y"


def assert_carried(model: ir.Model, start: str, order: Order) -> dict[str, Order]:
    """With input or output ``start`` in ``order`` and all that this asks for, the node computes the same."""
    (node,) = (node for node in model.graph if node.op_type != "Constant")
    inputs = {value: np.abs(floats(*(static_shape(value) or ()))) + np.float32(0.5) for value in model.graph.inputs}
    (wanted,) = run(model, {str(value.name): array for value, array in inputs.items()})
    values = {value.name: value for value in (*node.inputs, *node.outputs) if value is not None}
    orders = {values[start]: order, **spread(node, values[start], order)}
    for index, array in reordered_constants(node, orders).items():
        set_constant(node, index, "reordered", array)
    stored = {value: array[:, orders[value]] if value in orders else array for value, array in inputs.items()}
    expected = wanted[:, orders[values["y"]]] if values["y"] in orders else wanted
    (found,) = run(model, {str(value.name): array for value, array in stored.items()})
    assert np.linalg.norm(found - expected) <= TOLERANCE * np.linalg.norm(expected)
    return {str(value.name): carried for value, carried in orders.items()}


@pytest.mark.parametrize("operator", sorted(set(ELEMENTWISE) - {"Gelu", "Mish"}))
@pytest.mark.parametrize("start", ["x", "y"])
def test_elementwise_operators_carry_any_order(operator: str, start: str) -> None:
    """Gelu and Mish came with later opsets than 18, or are no kernel of this runtime."""
    orders = assert_carried(graph(IMAGE, f"y = {operator}(x)", {}), start, ORDER)
    assert {name: order.tolist() for name, order in orders.items()} == {"x": ORDER.tolist(), "y": ORDER.tolist()}


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        (IMAGE, "y = BatchNormalization(x, scale, shift, mean, variance)"),
        (IMAGE, "y = InstanceNormalization(x, scale, shift)"),
        (IMAGE, "y = Mul(x, image)"),
        (IMAGE, "y = Add(low, x)"),
        (IMAGE, "y = Sub(one, x)"),
        (IMAGE, "y = PRelu(x, low)"),
        (IMAGE, "y = Div(x, number)"),
        ("float[2,6,3,4] x, float[2,1,3,4] map => float[2,6,3,4] y", "y = Mul(x, map)"),
        ("float[2,6,3,4] x, float[2,6,1,1] gate => float[2,6,3,4] y", "y = Mul(x, gate)"),
        ("float[2,6,3,4] x, float[2,6,3,4] z => float[2,6,3,4] y", "y = Sum(x, z, image)"),
        ("float[2,6,3,4] x => float[2,6,1,1] y", "y = GlobalAveragePool(x)"),
        ("float[2,6,3,4] x => float[2,6,2,2] y", "y = MaxPool<kernel_shape = [2, 3]>(x)"),
        ("float[2,6,3,4] x => float[2,6,2,2] y", "y = AveragePool<kernel_shape = [2, 3]>(x)"),
        ("float[2,6,3,4] x => float[2,6] y", "y = ReduceMean<keepdims = 0>(x, axes)"),
        ("float[2,6,3,4] x => float[2,72] y", "y = Flatten(x)"),
        ("float[2,6,1,1] x => float[2,6] y", "y = Squeeze(x, axes)"),
        ("float[2,6] x => float[2,6,1,1] y", "y = Unsqueeze(x, axes)"),
        ("float[2,6,3,4] x => float[2,6,12] y", "y = Reshape(x, pixels)"),
        ("float[2,6] x => float[2,5] y", "y = Gemm<transB = 1>(x, matrix, five)"),
        ("float[2,6] x => float[2,5] y", "y = Gemm<alpha = 0.5>(x, turned, number)"),
        ("float[2,6] x => float[2,5] y", "y = MatMul(x, turned)"),
        ("float[2,6,7] x => float[2,5,6] y", "y = Conv(x, taps)"),
    ],
)
def test_operators_with_constants_and_shapes_carry_an_order(signature: str, body: str) -> None:
    constants = POSITIVE | {
        "image": floats(1, 6, 1, 1),
        "low": floats(6, 1, 1),
        "one": floats(1, 1, 3, 4),
        "number": np.abs(floats(1)),
        "axes": np.array([2, 3]),
        "pixels": np.array([2, 6, 12]),
        "matrix": floats(5, 6),
        "turned": floats(6, 5),
        "five": floats(5),
        "taps": floats(5, 6, 2),
    }
    used = {name: array for name, array in constants.items() if f"{name})" in body or f"{name}," in body}
    assert_carried(graph(signature, body, used), "x", ORDER)


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        ("float[2,4] x => float[2,6] y", "y = Gemm(x, w, bias)"),
        ("float[2,4] x => float[2,6] y", "y = Gemm<transB = 1>(x, turned, one)"),
        ("float[2,4] x => float[2,6] y", "y = MatMul(x, w)"),
        ("float[2,4,3,3] x => float[2,6,3,3] y", "y = Conv(x, kernel, bias)"),
    ],
)
def test_a_layer_can_make_its_output_in_any_order(signature: str, body: str) -> None:
    """Its rows and its bias follow; of its input it asks nothing."""
    constants = {
        "w": floats(4, 6),
        "turned": floats(6, 4),
        "one": floats(1),
        "bias": floats(6),
        "kernel": floats(6, 4, 1, 1),
    }
    used = {name: array for name, array in constants.items() if f"{name})" in body or f"{name}," in body}
    orders = assert_carried(graph(signature, body, used), "y", ORDER)
    assert list(orders) == ["y"]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_grouped_conv_carries_what_its_groups_allow(data: st.DataObject) -> None:
    """Channels within a group are its own matter; whole groups move on both sides; all else is refused."""
    group, inputs, filters = (data.draw(st.integers(1, 4)) for _ in range(3))
    model = graph(
        f"float[2,{group * inputs},4,4] x => float[2,{group * filters},2,2] y",
        f"y = Conv<group = {group}>(x, w, b)",
        {"w": floats(group * filters, inputs, 3, 3), "b": floats(group * filters)},
    )
    start, size = data.draw(st.sampled_from([("x", inputs), ("y", filters)]))
    groups = np.array(data.draw(st.permutations(range(group))))
    within = [data.draw(st.permutations(range(size))) for _ in range(group)]
    order = np.concatenate([size * groups[index] + np.array(within[index]) for index in range(group)])
    asked = assert_carried(model, start, order)
    other, width = ("y", filters) if start == "x" else ("x", inputs)
    moved = not np.array_equal(groups, np.arange(group))
    assert (other in asked) == moved
    if moved:
        assert (asked[other].reshape(group, width) // width == groups[:, None]).all()


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        (IMAGE, "y = Softmax<axis = 1>(x)"),
        (IMAGE, "y = Clip(number, x)"),
        (IMAGE, "y = Conv<group = 2>(x, halves)"),
        ("float[2,6,3,4] x, float[6,6,1,1] w => float[2,6,3,4] y", "y = Conv(x, w)"),
        ("float[2,6,3,4] x, float[6] b => float[2,6,3,4] y", "y = Conv(x, full, b)"),
        ("float[2,6,3,4] x, float[6] b => float[2,6,3,4] y", "y = BatchNormalization(x, b, scale, shift, mean)"),
        ("float[2,6,3,4] x, float[6,1,1] b => float[2,6,3,4] y", "y = Add(x, b)"),
        ("float[6,4] x, float[2,6,6,4] z => float[2,6,6,4] y", "y = Add(x, z)"),
        ("float[2,6,3,4] x => float[2,1,3,4] y", "y = ReduceMean(x, channels)"),
        ("float[2,6,3,4] x => float[2,3,6,4] y", "y = Transpose<perm = [0, 2, 1, 3]>(x)"),
        ("float[2,6,3,4] x => float[2,4,18] y", "y = Reshape(x, cut)"),
        ("float[2,6,3,4] x => float[2,3,24] y", "y = Reshape(x, joined)"),
        ("float[2,6,3,4] x => float[12,12] y", "y = Flatten<axis = 2>(x)"),
        ("float[2,6,3,4] x => float[2,6,3,5] y", "y = MatMul(x, wide)"),
        ("float[2,6] x, float[6,5] w => float[2,5] y", "y = Gemm(x, w)"),
        ("float[2,6] x => float[6,5] y", "y = Gemm<transA = 1>(x, two)"),
        ("float[2,6,3,4] x => float[2,6,2,2] y, int64[2,6,2,2] at", "y, at = MaxPool<kernel_shape = [2, 3]>(x)"),
    ],
)
def test_what_would_compute_something_else_is_refused(signature: str, body: str) -> None:
    constants = POSITIVE | {
        "halves": floats(6, 3, 1, 1),
        "full": floats(6, 6, 1, 1),
        "channels": np.array([1]),
        "cut": np.array([2, 4, 18]),
        "joined": np.array([2, 3, 24]),
        "wide": floats(4, 5),
        "two": floats(2, 5),
    }
    used = {name: array for name, array in constants.items() if f"{name})" in body or f"{name}," in body}
    model = graph(signature, f"number = Constant<value_float = 1.0>() {body}", used)
    (node,) = (node for node in model.graph if node.op_type != "Constant")
    (x,) = (value for value in model.graph.inputs if value.name == "x")
    with pytest.raises(CannotReorderError):
        spread(node, x, ORDER)


def test_operators_of_other_domains_are_not_known() -> None:
    node = ir.Node("com.example", "Relu", [ir.Value(name="x")])
    value = node.inputs[0]
    assert value is not None
    assert "Relu" in RULES
    with pytest.raises(CannotReorderError, match="as they are"):
        spread(node, value, ORDER)
