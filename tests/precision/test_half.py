"""FP16 types wherever they can be, float at the border and where it was asked for, and the same names."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kronexport.errors import UserInputError
from kronexport.lower.standard import check_standard
from kronexport.precision.half import FLOAT, HALF, half, half_nodes, rounded
from tests.lower.small_graphs import floats, graph, outputs, run

NEAR = 2e-3
"""Relative L2 of a few nodes in FP16."""

CHAIN = graph(
    "float[1,4,6,6] x => float[1,8] y, float[1,8,6,6] b",
    """[first] a = Conv<pads = [1, 1, 1, 1]>(x, w)
    [relu] b = Relu(a)
    [pool] p = GlobalAveragePool(b)
    [sizes] s = Constant<value_ints = [1, 8]>()
    [flat] f = Reshape(p, s)
    [scale] y = Mul(f, m)""",
    {"w": floats(8, 4, 3, 3), "m": floats(8)},
)


def kinds(model: ir.Model) -> dict[str, ir.DataType | None]:
    """The type of every value by name."""
    return {name: value.dtype for name, value in ir.convenience.create_value_mapping(model.graph).items()}


def casts(model: ir.Model) -> int:
    return sum(node.op_type == "Cast" for node in model.graph)


def distance(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def test_all_is_half_but_inputs_and_outputs() -> None:
    """One Cast an input and an output; weights keep their names; nothing of the model that was given changes."""
    before = ir.to_proto(CHAIN).SerializeToString()
    found = half(CHAIN)
    assert ir.to_proto(CHAIN).SerializeToString() == before
    check_standard(found)
    types = kinds(found)
    assert {name for name, kind in types.items() if kind == FLOAT} == {"x", "y", "b"}
    assert types["w"] == types["m"] == types["a"] == HALF
    assert casts(found) == 3
    assert [node.name for node in found.graph if node.op_type != "Cast"] == [node.name for node in CHAIN.graph]
    assert [value.name for value in found.graph.outputs] == ["y", "b"]


def test_the_file_is_about_half_as_long() -> None:
    model = graph("float[1,64,6,6] x => float[1,64,6,6] y", "[one] y = Conv(x, w)", {"w": floats(64, 64, 1, 1)})
    sizes = [len(ir.to_proto(each).SerializeToString()) for each in (half(model), model)]
    assert 0.5 < sizes[0] / sizes[1] < 0.55


@pytest.mark.parametrize("kept", [(), ("first",), ("relu",), ("first", "relu"), ("pool", "flat"), ("scale",)], ids=str)
def test_it_computes_the_same_to_three_digits_whatever_stays_in_float(kept: tuple[str, ...]) -> None:
    """Both as ONNX Runtime runs it here and rounded as a device does."""
    typed = half(CHAIN, kept)
    check_standard(typed)
    for model in (typed, rounded(typed)):
        distances = [distance(*pair) for pair in zip(outputs(model), outputs(CHAIN), strict=True)]
        assert max(distances) < NEAR
        assert distances[0] > 0


def test_with_every_node_in_float_nothing_changes() -> None:
    typed = half(CHAIN, half_nodes(CHAIN))
    assert casts(typed) == 0
    assert HALF not in kinds(typed).values()


def test_between_two_nodes_in_float_there_is_no_cast() -> None:
    """A value that overflows in FP16 passes."""
    typed = half(CHAIN, ("first", "relu"))
    assert kinds(typed)["a"] == FLOAT
    assert kinds(typed)["w"] == FLOAT


def test_a_weight_that_both_kinds_of_nodes_read_is_there_twice() -> None:
    model = graph(
        "float[1,4,3,3] x => float[1,4,3,3] y", "[one] a = Conv(x, w) [two] y = Conv(a, w)", {"w": floats(4, 4, 1, 1)}
    )
    typed = half(model, ("one",))
    assert (kinds(typed)["w"], kinds(typed)["w_half"]) == (FLOAT, HALF)
    check_standard(typed)


def test_metadata_stay_and_a_cast_has_that_of_what_it_converts() -> None:
    model = CHAIN.clone()
    for node in model.graph:
        node.metadata_props["kronexport.site"] = str(node.name)
    found = {node.name: node.metadata_props.get("kronexport.site") for node in half(model).graph}
    assert found["first"] == "first"
    assert found["b_float_before_float_cast"] == "relu"


def test_inputs_that_are_never_half_stay_float() -> None:
    """The scales of a Resize are of one type."""
    model = graph(
        "float[1,2,3,3] x => float[1,2,6,6] y",
        '[grow] y = Resize<mode = "nearest">(x, , scales)',
        {"scales": np.array([1, 1, 2, 2], np.float32)},
    )
    typed = half(model)
    check_standard(typed)
    assert kinds(typed)["scales"] == FLOAT
    assert distance(outputs(typed)[0], outputs(model)[0]) < NEAR


def test_what_makes_no_floats_reads_what_there_is() -> None:
    """A Shape and a comparison need no Casts of their own."""
    model = graph(
        "float[1,4,3,3] x => int64[4] s, bool[1,4,3,3] c",
        "[relu] a = Relu(x) [sizes] s = Shape(a) [more] c = Greater(a, zero)",
        {"zero": np.zeros(1, np.float32)},
    )
    typed = half(model)
    check_standard(typed)
    assert casts(typed) == 1
    assert kinds(typed)["zero"] == HALF


def test_a_model_with_control_flow_is_refused() -> None:
    body = onnx.parser.parse_graph("body () => (float[1] z) { z = Relu(x) }")
    node = onnx.helper.make_node("If", ["c"], ["y"], name="choose", then_branch=body, else_branch=body)
    shape = (onnx.TensorProto.FLOAT, [1])
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [node],
            "flow",
            [
                onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []),
                onnx.helper.make_tensor_value_info("x", *shape),
            ],
            [onnx.helper.make_tensor_value_info("y", *shape)],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
    )
    with pytest.raises(UserInputError, match="fp16: choose: If holds a graph of its own"):
        half(ir.from_proto(model))


def test_rounding_shows_an_overflow_between_two_nodes() -> None:
    """ONNX Runtime alone computes in float here, and shows none."""
    model = graph(
        "float[1,4,3,3] x => float[1,4,3,3] y",
        "[up] a = Mul(x, large) [down] y = Mul(a, little)",
        {"large": np.array([6e4], np.float32), "little": np.array([1e-3], np.float32)},
    )
    image = np.full((1, 4, 3, 3), 10, np.float32)
    (found,) = run(rounded(half(model)), {"x": image})
    assert np.isinf(found).all()
    (found,) = run(rounded(half(model, ("up", "down"))), {"x": image})
    assert distance(found, np.full_like(image, 600)) < NEAR


@settings(deadline=None, max_examples=30)
@given(st.sets(st.sampled_from(half_nodes(CHAIN))), st.sampled_from([13, 17, 18]))
def test_any_choice_of_nodes_is_a_valid_model(kept: set[str], opset: int) -> None:
    """Each node's floats are of one kind, and only that of the other side of a border is cast."""
    model = CHAIN.clone()
    model.opset_imports[""] = opset
    typed = half(model, kept)
    check_standard(typed)
    for node in typed.graph:
        if node.op_type not in ("Cast", "Constant"):
            wanted = FLOAT if node.name in kept else HALF
            values = [value for value in (*node.inputs, *node.outputs) if value is not None]
            assert {value.dtype for value in values if value.dtype in (FLOAT, HALF)} == {wanted}
