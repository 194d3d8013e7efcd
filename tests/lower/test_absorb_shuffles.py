"""Shuffles go where their neighbours can carry the order, and stay where they cannot."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from kronexport.lower.absorb_shuffles import AbsorbShuffles
from kronexport.lower.channel_orders import Order
from kronexport.lower.channel_rules import RULES, Rule
from tests.lower.small_graphs import floats, graph, operators_after, shuffle

IMAGE = "float[1,6,3,3]"
SIGNATURE = f"{IMAGE} x => {IMAGE} y"
CONSTANTS: dict[str, NDArray[Any]] = {
    "v": floats(6, 6, 1, 1),
    "w": floats(6, 6, 3, 3)[::-1],
    "bias": floats(6),
    "deep": floats(6, 1, 3, 3),
    "halves": floats(6, 3, 1, 1),
    "image": floats(1, 6, 1, 1),
    "low": floats(6, 1, 1),
    "scale": floats(6),
    "mean": floats(6) / 2,
    "variance": np.abs(floats(6)) + 0.5,
    "matrix": floats(6, 4),
    "pixels": floats(54, 4),
    "flat": np.array([1, 54]),
}
"""Each is read where its name is a word of a graph."""

SAME = "<pads = [1, 1, 1, 1]>"
STIRRED = shuffle("a", "s", (2, 3))
"""From a to s."""


def model(body: str, signature: str = SIGNATURE) -> ir.Model:
    words = set("".join(letter if letter.isalnum() else " " for letter in body).split())
    return graph(signature, body, {name: array for name, array in CONSTANTS.items() if name in words})


def transposes_after(body: str, signature: str = SIGNATURE) -> int:
    """Transposes that are left; the pass says whether it changed anything, and outputs are as before."""
    counted = operators_after(model(body, signature), AbsorbShuffles())
    assert counted["Reshape"] >= 2 * counted["Transpose"]
    return counted["Transpose"]


@pytest.mark.parametrize(
    "behind",
    [
        f"y = Conv{SAME}(s, w, bias)",
        f"r = Relu(s) y = Conv{SAME}(r, w)",
        "r = LeakyRelu(s) n = BatchNormalization(r, scale, bias, mean, variance) y = Conv(n, v)",
        "r = Mul(s, image) n = PRelu(r, low) y = Conv(n, v)",
        "d = Conv<group = 6, pads = [1, 1, 1, 1]>(s, deep, bias) r = Relu(d) y = Conv(r, v)",
        "p = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(s) y = Conv(p, v)",
        "p = Conv(s, v) q = Conv(s, v) y = Add(p, q)",
        "g = GlobalAveragePool(s) h = Sigmoid(g) m = Mul(s, h) y = Conv(m, v)",
    ],
)
def test_a_shuffle_goes_down_into_a_conv(behind: str) -> None:
    """Through what is alike for every channel or has a constant for each, and into all that read it."""
    assert transposes_after(f"a = Abs(x) {STIRRED} {behind}") == 0


def test_what_is_alike_is_asked_of_the_side_above_as_well() -> None:
    """The input of the model cannot be stored otherwise, so the shuffle must go down."""
    left = model(f"a = Abs(x) {STIRRED} y = Conv(s, v)")
    AbsorbShuffles()(left)
    (conv,) = (node for node in left.graph if node.op_type == "Conv")
    weight = conv.inputs[1]
    assert weight is not None
    assert weight.name == "v", "its only reader may change it in place"
    assert weight.const_value is not None
    assert np.array_equal(weight.const_value.numpy(), floats(6, 6, 1, 1)[:, [0, 2, 4, 1, 3, 5]])


@pytest.mark.parametrize(
    "before",
    [
        f"a = Conv{SAME}(x, w, bias)",
        f"c = Conv{SAME}(x, w) a = Relu(c)",
        "c = Conv(x, v, bias) d = Conv<group = 6, pads = [1, 1, 1, 1]>(c, deep) a = Clip(d)",
        "c = Conv(x, v) d = Conv(x, v) a = Add(c, d)",
    ],
)
def test_a_shuffle_goes_up_into_a_conv(before: str) -> None:
    """The output of the model cannot be stored otherwise."""
    assert transposes_after(f"{before} {STIRRED} y = Softmax<axis = 1>(s)") == 0


EIGHT = "float[1,8,3,3] x => float[1,8,3,3] y"


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [((2, 4), (4, 2), 0), ((2, 4), (2, 4), 1), ((2, 2, 2), (2, 2, 2), 0), ((2, 2, 2), (2, 4), 1), ((1, 8), (8, 1), 0)],
)
@pytest.mark.parametrize("between", ["r = Relu(s)", "r = Identity(s)", ""])
def test_shuffles_that_meet_become_one_or_none(
    first: tuple[int, ...], second: tuple[int, ...], left: int, between: str
) -> None:
    """What is left of two is one Transpose; neither input nor output can be stored otherwise."""
    body = f"{shuffle('x', 's', first)} {between} {shuffle('r' if between else 's', 'y', second)}"
    assert transposes_after(body, EIGHT) == left


def test_shuffles_that_no_single_transpose_makes_stay() -> None:
    body = f"{shuffle('x', 's', (2, 3))} r = Relu(s) {shuffle('r', 'y', (2, 3))}"
    assert transposes_after(body) == 2


@pytest.mark.parametrize(
    ("other", "behind", "left"),
    [
        (shuffle("b", "t", (2, 3)), "y = Conv(m, v)", 0),
        (shuffle("b", "t", (2, 3)), "y = Softmax<axis = 1>(m)", 1),
        (shuffle("b", "t", (2, 3)), "y = Relu(m)", 2),
        (shuffle("b", "t", (3, 2)), "y = Softmax<axis = 1>(m)", 2),
        ("t = Conv(b, v)", "y = Conv(m, v)", 0),
        ("t = Conv(b, v)", shuffle("m", "y", (3, 2)), 0),
        ("t = Conv<group = 2>(b, halves)", "y = Conv(m, v)", 1),
        ("t = Relu(b)", "y = Conv(m, v)", 1),
        ("t = Exp(x)", "y = Conv(m, v)", 1),
    ],
)
def test_both_sides_of_an_add_have_one_order(other: str, behind: str, left: int) -> None:
    """Both may come shuffled alike, or a Conv follows the other side; else all stays as it was.

    Where the reader of the sum needs it as it is, two shuffles before it become one behind it, but not in front of an
    output of the model.
    """
    body = f"a = Abs(x) b = Neg(x) {STIRRED} {other} m = Add(s, t) {behind}"
    assert transposes_after(body) == left


WITHIN_TWO = (2, 2, 3), (0, 2, 1)
"""Of 12 channels, within each half."""
BLOCKS = (2, 3, 2), (1, 0, 2)
"""Of 12 channels, whole blocks of two."""


@pytest.mark.parametrize(
    ("order", "body", "left"),
    [
        (WITHIN_TWO, "a = Abs(x) SHUFFLE y = Conv<group = 2>(s, two)", 0),
        (WITHIN_TWO, "a = Abs(x) SHUFFLE y = Conv<group = 6>(s, six)", 1),
        (WITHIN_TWO, "a = Conv<group = 2>(x, two) SHUFFLE y = Relu(s)", 0),
        (BLOCKS, "a = Abs(x) SHUFFLE y = Conv<group = 2>(s, two)", 1),
        (BLOCKS, "a = Abs(x) SHUFFLE y = Conv<group = 6>(s, six)", 1),
        (BLOCKS, "a = Abs(x) SHUFFLE c = Conv<group = 6>(s, six, bias) y = Conv(c, all)", 0),
        (BLOCKS, "a = Abs(x) SHUFFLE c = Conv<group = 12>(s, deep, bias) y = Conv(c, all)", 0),
        (BLOCKS, "c = Conv(x, all) a = Conv<group = 6>(c, six, bias) SHUFFLE y = Relu(s)", 0),
        (BLOCKS, "a = Conv<group = 6>(x, six, bias) SHUFFLE y = Relu(s)", 1),
    ],
)
def test_groups_allow_orders_within_them_and_of_whole_groups(
    order: tuple[tuple[int, ...], tuple[int, ...]], body: str, left: int
) -> None:
    """Within a group an order ends in the weights; whole groups move on both sides of the Conv."""
    constants = {
        "two": floats(12, 6, 1, 1),
        "six": floats(12, 2, 1, 1),
        "all": floats(12, 12, 1, 1),
        "deep": floats(12, 1, 1, 1),
        "bias": floats(12),
    }
    used = {name: array for name, array in constants.items() if name in body}
    text = body.replace("SHUFFLE", shuffle("a", "s", *order))
    grouped = graph("float[1,12,3,3] x => float[1,12,3,3] y", text, used)
    assert operators_after(grouped, AbsorbShuffles())["Transpose"] == left


@pytest.mark.parametrize(
    ("behind", "outputs"),
    [
        ("y = Conv(s, v) z = Softmax<axis = 1>(s)", f"y, {IMAGE} z"),
        ("y = Conv(s, v)", f"y, {IMAGE} s"),
        ("y = Conv(s, v)", "y, float[1,3,2,3,3] s_moved"),
        ("c = Abs(v) y = Conv(s, c)", "y"),
        ("y = Conv(s, kernel)", "y"),
    ],
    ids=["another reader", "an output", "an output of its inside", "a computed weight", "a weight given at run time"],
)
def test_a_shuffle_stays_where_somebody_needs_it(behind: str, outputs: str) -> None:
    inputs = f"{IMAGE} x, float[6,6,1,1] kernel" if "kernel" in behind else f"{IMAGE} x"
    assert transposes_after(f"a = Abs(x) {STIRRED} {behind}", f"{inputs} => {IMAGE} {outputs}") == 1


def test_a_weight_that_another_layer_reads_is_copied() -> None:
    """The other layer computes what it did."""
    assert transposes_after(f"a = Abs(x) {STIRRED} c = Conv(s, v) d = Conv(x, v) y = Add(c, d)") == 0


def test_a_shuffle_goes_into_the_matrix_behind_pooled_or_flat_channels() -> None:
    pooled = "g = GlobalAveragePool(s) f = Flatten(g) y = Gemm(f, matrix)"
    assert transposes_after(f"a = Abs(x) {STIRRED} {pooled}", f"{IMAGE} x => float[1,4] y") == 0
    flat = "r = Relu(s) f = Reshape(r, flat) y = MatMul(f, pixels)"
    assert transposes_after(f"a = Abs(x) {STIRRED} {flat}", f"{IMAGE} x => float[1,4] y") == 0


def test_a_shuffle_that_flattens_leaves_a_reshape() -> None:
    body = """split = Constant<value_ints = [1, 2, 3, 3, 3]>() a = Abs(x) b = Reshape(a, split)
        c = Transpose<perm = [0, 2, 1, 3, 4]>(b) f = Reshape(c, flat) y = MatMul(f, pixels)"""
    left = operators_after(model(body, f"{IMAGE} x => float[1,4] y"), AbsorbShuffles())
    assert left == {"Abs": 1, "Reshape": 1, "MatMul": 1}


def test_a_residual_stream_is_stored_in_another_order_throughout() -> None:
    """All that read or add to it carry the order: two blocks whose branches end shuffled, from a Conv to a pool."""
    block = "{0}a = Conv({0}, v) {0}b = Relu({0}a) {1} {2} = Add({0}, {0}s)"
    body = "p = Conv(x, v) " + "".join(
        block.format(source, shuffle(f"{source}b", f"{source}s", (2, 3)), target)
        for source, target in (("p", "q"), ("q", "r"))
    )
    assert transposes_after(f"{body} g = GlobalAveragePool(r) y = Conv(g, v)", f"{IMAGE} x => float[1,6,1,1] y") == 0


def test_a_node_that_carries_an_order_reads_nothing_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a rule says: one that takes only the first of two inputs in another order refuses both."""

    def spread_first(node: ir.Node, _value: ir.Value, order: Order) -> dict[ir.Value, Order]:
        first = node.inputs[0]
        assert first is not None
        return {first: order, node.outputs[0]: order}

    monkeypatch.setitem(RULES, "Sub", Rule(spread_first, lambda _node, _orders: {}))
    body = f"a = Abs(x) b = Neg(x) {STIRRED} {shuffle('b', 't', (2, 3))} m = Add(s, t) r = Relu(m) d = Sub(r, m)"
    assert transposes_after(f"{body} y = Conv(d, v)") == 2


def test_a_model_without_shuffles_is_not_modified() -> None:
    assert not AbsorbShuffles()(model("y = Conv(x, v)")).modified
