"""Every rule gives an equal, valid model in the older opset, or says what it cannot express."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronexport.errors import UserInputError
from kronexport.lower.opset import StepDownOpset
from kronexport.lower.opset_edit import CannotStepDownError
from kronexport.lower.opset_steps import REDUCTIONS, RULES, SAME_BEHAVIOUR, STEPS, reshape_zeros
from tests.lower.stepping import assert_steps_down, model, op_types

RANK = 4
AXES = st.lists(st.integers(-RANK, RANK - 1), min_size=1, max_size=RANK, unique_by=lambda axis: axis % RANK)
FEW = settings(max_examples=25, deadline=None)


def listed(values: list[int] | list[float]) -> str:
    return "{" + ", ".join(map(str, values)) + "}"


def refuses(
    nodes: str, opset: int, match: str, *, constants: str = "", start: int = 18, x: str = "float[2,4,6,5]"
) -> None:
    with pytest.raises(UserInputError, match=match):
        StepDownOpset(opset)(model(nodes, constants=constants, opset=start, x=x))


# --- the table ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op_type", "version"), [(op, version) for op, versions in SAME_BEHAVIOUR.items() for version in versions]
)
def test_same_behaviour_means_same_interface(op_type: str, version: int) -> None:
    """onnx.defs: a version in the table exists, has the same inputs and outputs, and only adds defaulted attributes."""
    newer, older = onnx.defs.get_schema(op_type, version, ""), onnx.defs.get_schema(op_type, version - 1, "")
    assert newer.since_version == version
    assert not older.deprecated
    for ours, theirs in ((newer.inputs, older.inputs), (newer.outputs, older.outputs)):
        assert [(p.name, p.option, p.is_homogeneous) for p in ours] == [
            (p.name, p.option, p.is_homogeneous) for p in theirs
        ]
    for name, attribute in older.attributes.items():
        kept = newer.attributes[name]
        assert (kept.type, kept.required, kept.default_value) == (
            attribute.type,
            attribute.required,
            attribute.default_value,
        )
    for name in set(newer.attributes) - set(older.attributes):
        assert newer.attributes[name].default_value.name, f"{name} has no default value"


@pytest.mark.parametrize(("op_type", "version"), list(RULES))
def test_each_rule_answers_a_real_change(op_type: str, version: int) -> None:
    """onnx.defs: the operator of a rule changed in, or came with, that version; no rule hides a table entry."""
    assert onnx.defs.get_schema(op_type, version, "").since_version == version
    assert version not in SAME_BEHAVIOUR.get(op_type, ())
    assert len(STEPS) == len(RULES) + sum(len(versions) for versions in SAME_BEHAVIOUR.values())


# --- equal in the older opset ---------------------------------------------------------------------------------


@FEW
@given(name=st.sampled_from((*REDUCTIONS, "Sum")), axes=AXES, keepdims=st.integers(0, 1))
def test_reduce(name: str, axes: list[int], keepdims: int) -> None:
    net = model(
        f"p = Exp(x) y = Reduce{name}<keepdims={keepdims}, noop_with_empty_axes=0>(p, axes)",
        y="float"
        if len(axes) == RANK and not keepdims
        else "float[" + ", ".join("abcd"[: RANK - len(axes) * (1 - keepdims)]) + "]",
        constants=f"int64[{len(axes)}] axes = {listed(axes)}",
    )
    assert_steps_down(net, 13)
    assert len(net.graph.initializers) == (1 if name == "Sum" else 0)


@pytest.mark.parametrize("call", ["ReduceMax(x)", "ReduceMax(x, empty)"])
def test_reduce_without_axes_is_over_all(call: str) -> None:
    assert_steps_down(model(f"y = {call}", constants="int64[0] empty = {}"), 17)


def test_reduce_keeps_axes_that_others_read() -> None:
    net = model("m = ReduceMean(x, axes) y = ReduceSum(m, axes)", constants="int64[2] axes = {2, 3}")
    assert_steps_down(net, 17)
    assert list(net.graph.initializers) == ["axes"]


def test_axes_of_a_constant_node_are_read_and_removed() -> None:
    net = model("axes = Constant<value_ints=[2, -1]>() y = ReduceMean<keepdims=1>(x, axes)")
    assert_steps_down(net, 17)
    assert op_types(net) == ["ReduceMean"]


@FEW
@given(data=st.data(), axes=AXES, mode=st.sampled_from(("constant", "reflect", "edge")))
def test_pad_of_some_axes(data: st.DataObject, axes: list[int], mode: str) -> None:
    count = 2 * len(axes)
    pads = listed(data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    net = model(
        f'y = Pad<mode="{mode}">(x, pads, value, axes)',
        constants=f"int64[{len(axes)}] axes = {listed(axes)}, int64[{count}] pads = {pads}, float value = {{1.5}}",
    )
    assert_steps_down(net, 17)
    assert "axes" not in net.graph.initializers


def test_pad_without_axes_keeps_computed_pads() -> None:
    net = model("p = Abs(pads) y = Pad(x, p)", constants="int64[8] pads = {0, -1, 0, 0, 0, 1, 0, 0}")
    assert_steps_down(net, 13)


@FEW
@given(axes=AXES, scale=st.sampled_from((0.5, 1.0, 2.0)), mode=st.sampled_from(("linear", "nearest")))
def test_resize_of_some_axes_by_scales(axes: list[int], scale: float, mode: str) -> None:
    scales = [scale if axis % RANK > 1 else 1.0 for axis in axes]
    net = model(
        f'y = Resize<mode="{mode}", axes={axes}, antialias=0>(x, , scales)',
        constants=f"float[{len(axes)}] scales = {listed(scales)}",
    )
    assert_steps_down(net, 13)


@pytest.mark.parametrize("axes", [[2, 3], [-1, 2], [3]])
def test_resize_of_some_axes_by_sizes(axes: list[int]) -> None:
    net = model(
        f'y = Resize<mode="linear", axes={axes}, keep_aspect_ratio_policy="stretch">(x, , , sizes)',
        constants=f"int64[{len(axes)}] sizes = {listed([7 + axis for axis in axes])}",
    )
    assert_steps_down(net, 13)


@FEW
@given(parts=st.integers(1, 4), size=st.integers(4, 9))
def test_split_into_parts(parts: int, size: int) -> None:
    last = size - -(-size // parts) * (parts - 1)
    outputs = ", ".join(f"p{part}" for part in range(parts))
    nodes = f"{outputs} = Split<axis=-1, num_outputs={parts}>(x) y = Relu(p{parts - 1})"
    if last > 0:
        assert_steps_down(model(nodes, x=f"float[2,1,3,{size}]"), 13)


def test_split_that_names_its_sizes_stays() -> None:
    net = model("p, q = Split<axis=1>(x, sizes) y = Concat<axis=1>(q, p)", constants="int64[2] sizes = {1, 3}")
    assert_steps_down(net, 13)
    assert list(net.graph.initializers) == ["sizes"]


@pytest.mark.parametrize(
    ("nodes", "opset", "expected"),
    [
        ("y = HardSwish(x)", 14, ["HardSwish"]),
        ("y = HardSwish(x)", 13, ["HardSigmoid", "Mul"]),
        ("y = Mish(x)", 17, ["Softplus", "Tanh", "Mul"]),
    ],
)
def test_activations_become_their_parts_only_where_needed(nodes: str, opset: int, expected: list[str]) -> None:
    net = model(nodes)
    assert_steps_down(net, opset)
    assert op_types(net) == expected


@pytest.mark.parametrize(("axis", "size"), [(1, (4, 6, 5)), (3, (5,)), (-1, (5,)), (-2, (6, 5))])
def test_layer_normalization_over_the_last_axes(axis: int, size: tuple[int, ...]) -> None:
    dims = ",".join(map(str, size))
    values = listed([0.5 + 0.01 * index for index in range(int(np.prod(size)))])
    net = model(
        f"y = LayerNormalization<axis={axis}, epsilon=0.01, stash_type=1>(x, scale, bias)",
        constants=f"float[{dims}] scale = {values}, float[{dims}] bias = {values}",
    )
    assert_steps_down(net, 13)
    assert "LayerNormalization" not in op_types(net)


def test_layer_normalization_of_halves_computes_in_its_stash_type() -> None:
    net = model(
        "h = Cast<to=10>(x) n = LayerNormalization<stash_type=1>(h, scale) y = Cast<to=1>(n)",
        constants="float16[5] scale = {1, 2, 3, 4, 5}",
    )
    assert_steps_down(net, 16)
    assert op_types(net).count("Cast") == 4


def test_two_decompositions_in_one_graph_share_no_names() -> None:
    net = model(
        "n = LayerNormalization(x, scale) h = HardSwish(n) m = LayerNormalization(h, scale) y = HardSwish(m)",
        constants="float[5] scale = {1, 2, 3, 4, 5}, float[1] n_epsilon = {1}, float n_0_ReduceMean = {1}",
    )
    assert_steps_down(net, 13)
    names = [node.name for node in net.graph if node.name]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "bounds", ["start=0", "start=1", "start=-2, end=-1", "end=2", "start=-9, end=9", "start=3, end=1"]
)
def test_shape_of_some_axes(bounds: str) -> None:
    net = model(f"s = Shape<{bounds}>(x) f = Cast<to=1>(s) y = Relu(f)", x="float[2,3,n,5]", y="float[a]")
    assert_steps_down(net, 13)


def test_reshape_drops_allowzero_where_no_zero_can_be() -> None:
    net = model("y = Reshape<allowzero=1>(x, shape)", y="float[2,120]", constants="int64[2] shape = {2, -1}")
    assert_steps_down(net, 13)


def test_reshape_drops_allowzero_for_a_dynamic_batch_that_stays_in_place() -> None:
    net = model(
        "n = Shape<end=1>(x) shape = Concat<axis=0>(n, rest) y = Reshape<allowzero=1>(x, shape)",
        x="float[n,4,6,5]",
        y="float[n,120]",
        constants="int64[1] rest = {120}",
    )
    assert_steps_down(net, 13)


def test_batch_normalization_in_eval_mode() -> None:
    net = model(
        "y = BatchNormalization<training_mode=0>(x, s, b, m, v)",
        constants="float[4] s = {1,2,3,4}, float[4] b = {1,2,3,4}, float[4] m = {0,1,0,1}, float[4] v = {1,2,3,4}",
    )
    assert_steps_down(net, 13)


@pytest.mark.parametrize(
    "nodes",
    [
        "y = AveragePool<kernel_shape=[2, 2], dilations=[1, 1]>(x)",
        'y = Pad<mode="reflect">(x, pads)',
        'y = Resize<mode="linear">(x, , scales)',
        "h = Cast<to=10, saturate=1>(x) c = CastLike(h, x) y = Identity(c)",
        "i = IsNaN(x) y = Where(i, scales, x)",
    ],
)
def test_from_opset_21(nodes: str) -> None:
    """What opsets 19 to 21 changed around a CNN goes too."""
    constants = "int64[8] pads = {0,0,1,1,0,0,1,1}, float[4] scales = {1,1,2,2}"
    net = model(nodes.replace("(i, scales, x)", "(i, x, x)"), constants=constants, opset=21)
    assert_steps_down(net, 18)


# --- refused by name ------------------------------------------------------------------------------------------

NEGATIVE = [
    ("a = Cast<to=7>(s) y = ReduceMean(x, a)", 17, "input axes"),
    ("y = ReduceMean<noop_with_empty_axes=1>(x)", 17, "noop_with_empty_axes"),
    ("a = Cast<to=7>(s) y = Pad(x, two, , a)", 17, "input axes"),
    ("p = Cast<to=7>(four) y = Pad(x, p, , two)", 17, "input pads"),
    ('y = Resize<mode="linear", antialias=1>(x, , scales)', 17, "antialias"),
    ('y = Resize<axes=[2, 3], keep_aspect_ratio_policy="not_larger">(x, , , two)', 17, "keep_aspect_ratio_policy"),
    (
        'y = Resize<axes=[2, 3], coordinate_transformation_mode="tf_crop_and_resize">(x, roi, s)',
        17,
        "tf_crop_and_resize",
    ),
    ("c = Abs(s) y = Resize<axes=[2, 3]>(x, , c)", 17, "input scales"),
    ("y = Reshape<allowzero=1>(x, empty)", 13, "allowzero"),
    ("p = Abs(four) y = Reshape<allowzero=1>(x, p)", 13, "allowzero"),
    ("y, m = LayerNormalization(x, scale) z = Relu(m)", 16, "mean and deviation"),
    ("y, m, v = BatchNormalization<training_mode=1>(x, scales, scales, scales, scales)", 13, "eval mode"),
    ("y = GridSample(x, grid)", 15, "opset 16 changed GridSample"),
    ("y = GroupNormalization<num_groups=2>(x, s, s)", 17, "opset 18 changed GroupNormalization"),
]


@pytest.mark.parametrize(("nodes", "opset", "match"), NEGATIVE)
def test_refuses_what_has_no_equal(nodes: str, opset: int, match: str) -> None:
    """The message holds the reason, and which node at which opsets."""
    constants = (
        "float[2] s = {2, 3}, int64[2] two = {2, 3}, int64[4] four = {1, 0, 0, 1}, float[4] scales = {1, 1, 2, 2}, "
        "float[4] roi = {0, 0, 1, 1}, int64[3] empty = {2, 0, 5}, float[5] scale = {1, 1, 1, 1, 1}, "
        "float[2,1,1,2] grid = {0, 0, 0, 0}"
    )
    refuses(
        nodes, opset, rf"node '.*': cannot be stepped down from opset 18 to {opset}: .*{match}", constants=constants
    )


@pytest.mark.parametrize(
    ("nodes", "match"),
    [
        ('y = Pad<mode="wrap">(x, pads)', "mode='wrap'"),
        ('y = Resize<coordinate_transformation_mode="half_pixel_symmetric">(x, , scales)', "half_pixel_symmetric"),
        ("y = AveragePool<kernel_shape=[2, 2], dilations=[2, 1]>(x)", "dilations"),
        ("f = Cast<to=17, saturate=0>(x) y = Cast<to=1>(f)", "saturate"),
        ('y = Gelu<approximate="none">(x)', "Gelu"),
    ],
)
def test_refuses_what_came_after_18(nodes: str, match: str) -> None:
    constants = "int64[8] pads = {0,0,1,1,0,0,1,1}, float[4] scales = {1,1,2,2}"
    refuses(nodes, 18, match, constants=constants, start=21)


def test_refuses_to_split_a_dynamic_axis() -> None:
    refuses("p, y = Split<axis=0, num_outputs=2>(x)", 17, "axis 0 .* got n; export it static", x="float[n,4,6,5]")


@pytest.mark.parametrize(("x", "y"), [("n,m", "m,n"), ("?,m", "?,m"), ("n", "n,m")])
def test_refuses_allowzero_for_dynamic_sizes_that_may_differ(x: str, y: str) -> None:
    """Without allowzero a 0 would copy the input's size there, which is not known to be the output's."""
    net = model(
        "s = Cast<to=7>(f) y = Reshape<allowzero=1>(x, s)",
        x=f"float[{x}]",
        y=f"float[{y}]",
        constants="float[2] f = {2, 3}",
    )
    with pytest.raises(CannotStepDownError, match="allowzero"):
        reshape_zeros(net.graph.node(1), 14)
