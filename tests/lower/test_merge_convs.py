"""Convs that are one Conv are merged where that is cheaper, and compute the same."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kronexport.lower.graph_edit import SITE_MARK
from kronexport.lower.macs import count_macs
from kronexport.lower.merge_convs import MergeConvs
from tests.lower.small_graphs import floats, graph, operators_after

TWO = {"Conv": 2}
ONE = {"Conv": 1}


def pair(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    *,
    attributes: tuple[str, str] = ("", ""),
    biases: str = "ab",
    size: tuple[int, int] = (9, 8),
) -> ir.Model:
    """From x by a Conv of weight ``first`` and one of ``second`` to y; ``biases`` names those that have one."""
    group = int(attributes[0].partition("group = ")[2].partition(",")[0] or 1)
    constants = {"v": first, "w": second, "a": floats(first.shape[0]), "b": floats(second.shape[0])}
    given_biases = [f", {name}" if name in biases else "" for name in "ab"]
    body = f"t = Conv<{attributes[0]}>(x, v{given_biases[0]}) y = Conv<{attributes[1]}>(t, w{given_biases[1]})"
    body = body.replace("<>", "")
    used = {name: array for name, array in constants.items() if name in "vw" or name in biases}
    height, width = size
    channels = first.shape[1] * group
    return graph(f"float[2,{channels},{height},{width}] x => float[n,{second.shape[0]},h,w] y", body, used)


@pytest.mark.parametrize("biases", ["", "a", "b", "ab"])
def test_two_pointwise_convs_that_widen_between_become_one(biases: str) -> None:
    assert operators_after(pair(floats(8, 3, 1, 1), floats(4, 8, 1, 1), biases=biases), MergeConvs()) == ONE


def test_two_pointwise_convs_that_narrow_between_stay() -> None:
    """One Conv would need more MACs."""
    assert operators_after(pair(floats(2, 9, 1, 1), floats(9, 2, 1, 1)), MergeConvs()) == TWO


def test_what_the_dense_network_has_too_is_left_alone() -> None:
    """Its MACs stay those surveyed; one Conv of a site is enough, and what becomes of it counts as one."""
    model = pair(floats(8, 3, 1, 1), floats(4, 8, 1, 1))
    for node in model.graph:
        node.meta.pop(SITE_MARK, None)
    assert operators_after(model.clone(), MergeConvs()) == TWO
    last = next(node for node in model.graph if node.outputs[0].is_graph_output())
    last.meta[SITE_MARK] = True
    assert operators_after(model, MergeConvs()) == ONE
    assert all(SITE_MARK in node.meta for node in model.graph if node.op_type == "Conv")


def test_a_stride_on_the_second_can_make_it_pay() -> None:
    """The first computes pixels that nobody reads, yet not at the cost of more weights."""
    strided = ("", "strides = [2, 2]")
    assert operators_after(pair(floats(5, 9, 1, 1), floats(9, 5, 1, 1), attributes=strided), MergeConvs()) == ONE
    assert operators_after(pair(floats(4, 9, 1, 1), floats(9, 4, 1, 1), attributes=strided), MergeConvs()) == TWO


def test_a_pointwise_conv_behind_a_kernel_joins_it() -> None:
    """Whatever stride, padding and dilation the first has; strides multiply."""
    wide = "strides = [2, 1], pads = [1, 2, 0, 1], dilations = [1, 2]"
    model = pair(floats(8, 3, 3, 3), floats(2, 8, 1, 1), attributes=(wide, "strides = [1, 2]"))
    assert operators_after(model, MergeConvs()) == ONE
    (conv,) = (node for node in model.graph if node.op_type == "Conv")
    assert conv.attributes.get_ints("strides") == (2, 2)


@pytest.mark.parametrize(("padding", "biases", "left"), [(1, "a", TWO), (1, "b", ONE), (0, "ab", ONE)])
def test_a_pointwise_conv_before_a_kernel_joins_it_unless_its_bias_meets_padding(
    padding: int, biases: str, left: dict[str, int]
) -> None:
    """The kernel pads with zeros, where the bias never was."""
    wide = f"strides = [2, 2], pads = [{padding}, {padding}, {padding}, {padding}]"
    model = pair(floats(8, 3, 1, 1), floats(4, 8, 3, 3), attributes=("", wide), biases=biases)
    assert operators_after(model, MergeConvs()) == left


def test_a_bias_of_zeros_meets_padding_unharmed() -> None:
    model = pair(floats(8, 3, 1, 1), floats(4, 8, 3, 3), attributes=("", "pads = [1, 1, 1, 1]"), biases="a")
    model.graph.initializers["a"].const_value = ir.tensor(np.zeros(8, np.float32), name="a")
    assert operators_after(model, MergeConvs()) == ONE


def test_a_padded_or_strided_pointwise_conv_does_not_join_the_kernel_behind_it() -> None:
    for attributes in ("strides = [2, 2]", "pads = [1, 1, 1, 1]"):
        model = pair(floats(8, 3, 1, 1), floats(4, 8, 3, 3), attributes=(attributes, ""), biases="")
        assert operators_after(model, MergeConvs()) == TWO


def test_groups_that_are_equal_merge_one_by_one() -> None:
    grouped = ("group = 2", "group = 2")
    model = pair(floats(16, 3, 1, 1), floats(6, 8, 3, 3), attributes=grouped)
    assert operators_after(model, MergeConvs()) == ONE
    other = ("group = 2", "group = 1")
    assert operators_after(pair(floats(16, 3, 1, 1), floats(6, 16, 1, 1), attributes=other), MergeConvs()) == TWO


def test_a_row_of_three_becomes_one() -> None:
    body = "s = Conv(x, u) t = Conv(s, v) y = Conv(t, w)"
    constants = {"u": floats(8, 3, 1, 1), "v": floats(8, 8, 1, 1), "w": floats(2, 8, 1, 1)}
    assert operators_after(graph("float[1,3,4,4] x => float[1,2,4,4] y", body, constants), MergeConvs()) == ONE


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        ("float[1,3,4,4] x => float[1,4,4,4] y, float[1,8,4,4] z", "t = Conv(x, v) y = Conv(t, w) z = Relu(t)"),
        ("float[1,3,4,4] x => float[1,4,4,4] y, float[1,8,4,4] t", "t = Conv(x, v) y = Conv(t, w)"),
        ("float[1,3,4,4] x => float[1,4,4,4] y", "t = Conv(x, v) r = Relu(t) y = Conv(r, w)"),
        ("float[1,3,4,4] x => float[1,4,4,4] y", "t = Conv(x, v) c = Abs(w) y = Conv(t, c)"),
        ("float[1,3,4,4] x, float[8] b => float[1,4,4,4] y", "t = Conv(x, v, b) y = Conv(t, w)"),
    ],
    ids=["another reader", "an output of the model", "something between", "a computed weight", "a computed bias"],
)
def test_convs_stay_where_they_are_not_one(signature: str, body: str) -> None:
    model = graph(signature, body, {"v": floats(8, 3, 1, 1), "w": floats(4, 8, 1, 1)})
    assert operators_after(model, MergeConvs())["Conv"] == 2


sizes = st.integers(1, 6)


@settings(max_examples=150, deadline=None)
@given(st.tuples(sizes, sizes, sizes), st.tuples(*[st.integers(1, 3)] * 6), st.tuples(*[st.integers(0, 2)] * 4))
def test_merging_never_costs(channels: tuple[int, ...], walk: tuple[int, ...], pads: tuple[int, ...]) -> None:
    """Any k x k before a 1x1, and after one: the same outputs, with fewer MACs if there is one Conv left."""
    inputs, between, filters = channels
    kh, kw, sh, sw, dh, dw = walk
    wide = f"strides = [{sh}, {sw}], dilations = [{dh}, {dw}], pads = [{', '.join(map(str, pads))}]"
    behind = pair(
        floats(between, inputs, kh, kw), floats(filters, between, 1, 1), attributes=(wide, f"strides = [{sw}, {sh}]")
    )
    before = pair(floats(between, inputs, 1, 1), floats(filters, between, kh, kw), attributes=("", wide), biases="b")
    for model in (behind, before):
        macs = count_macs(model)
        left = operators_after(model, MergeConvs())
        assert count_macs(model) < macs if left == ONE else left == TWO
