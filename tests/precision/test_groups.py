"""TensorRT's rule on the groups of Convs in INT8."""

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronexport.precision.groups import int8_group_fits, refused_groups

CHANNELS = st.integers(1, 40)


def conv(groups: int, channels_in: int, channels_out: int, *, behind_pair: bool = False) -> onnx.GraphProto:
    """One Conv; channels are those of a group."""
    weight = onnx.helper.make_tensor(
        "w",
        onnx.TensorProto.FLOAT,
        (groups * channels_out, channels_in, 1, 1),
        bytes(4 * groups * channels_out * channels_in),
        raw=True,
    )
    nodes = [onnx.helper.make_node("Conv", ["x", "v" if behind_pair else "w"], ["y"], "conv", group=groups)]
    if behind_pair:
        nodes.insert(0, onnx.helper.make_node("DequantizeLinear", ["q", "scale"], ["v"]))
        nodes.insert(0, onnx.helper.make_node("QuantizeLinear", ["w", "scale"], ["q"]))
    return onnx.helper.make_graph(nodes, "one", [], [], [weight])


@given(channels_in=CHANNELS, channels_out=CHANNELS)
def test_a_conv_without_groups_always_fits(channels_in: int, channels_out: int) -> None:
    assert int8_group_fits(1, channels_in, channels_out)


@given(groups=st.integers(2, 8), quads_in=st.integers(1, 6), quads_out=st.integers(1, 6), odd=st.integers(1, 3))
def test_groups_fit_in_fours_and_in_nothing_else(groups: int, quads_in: int, quads_out: int, odd: int) -> None:
    """In and out each count; so does a depthwise Conv, of one channel a group."""
    assert int8_group_fits(groups, 4 * quads_in, 4 * quads_out)
    assert not int8_group_fits(groups, 4 * quads_in - odd, 4 * quads_out)
    assert not int8_group_fits(groups, 4 * quads_in, 4 * quads_out - odd)
    assert not int8_group_fits(groups, 1, 1)


@pytest.mark.parametrize(("shape", "fits"), [((8, 4, 2, 2), True), ((4, 4, 2, 2), False), ((8, 2, 2, 2), False)])
def test_a_transposed_conv_has_its_channels_the_other_way_round(shape: tuple[int, ...], *, fits: bool) -> None:
    """In first, and in two groups here."""
    graph = conv(2, 4, 4)
    graph.node[0].op_type = "ConvTranspose"
    graph.initializer[0].dims[:] = shape
    assert (refused_groups(graph) == {}) == fits


@given(groups=st.integers(1, 6), channels_in=CHANNELS, channels_out=CHANNELS, behind_pair=st.booleans())
def test_a_graph_is_asked_for_its_weights(
    groups: int, channels_in: int, channels_out: int, *, behind_pair: bool
) -> None:
    """Their shapes say how many channels a group has, before quantization and after it."""
    found = refused_groups(conv(groups, channels_in, channels_out, behind_pair=behind_pair))
    assert set(found) == (set() if int8_group_fits(groups, channels_in, channels_out) else {"conv"})


def test_a_refusal_says_the_groups() -> None:
    assert refused_groups(conv(5, 2, 6)) == {"conv": "5 groups of 2 to 6 channels"}


@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
def test_other_operators_are_let_be(operator: str) -> None:
    graph = conv(5, 2, 6)
    graph.node[0].op_type = operator
    assert refused_groups(graph) == {}


def test_a_weight_that_is_computed_or_given_is_not_looked_at() -> None:
    graph = onnx.parser.parse_graph(
        """g (float[1, 4, 8, 8] x, float[4, 1, 1, 1] given) => (float[1, 4, 8, 8] y) {
            computed = Relu(given)
            a = Conv<group = 4>(x, given)
            y = Conv<group = 4>(a, computed)
        }"""
    )
    assert refused_groups(graph) == {}
