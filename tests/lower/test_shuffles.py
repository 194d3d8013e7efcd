"""Shuffles: what in a graph is one, and what it can be rewritten to."""

import numpy as np
import pytest

from kronexport.lower.channel_orders import CannotReorderError, inverse
from kronexport.lower.shuffles import find_shuffles, insert, rewrite
from tests.lower.small_graphs import assert_same_outputs, floats, graph, outputs, shuffle

SIGNATURE = "float[1,6,3,3] x => float[1,6,3,3] y"


def test_a_shuffle_is_found_with_its_order() -> None:
    model = graph(SIGNATURE, shuffle("x", "s", (2, 3)) + "y = Relu(s)", {})
    (found,) = find_shuffles(model.graph)
    assert (found.source.name, found.result.name, found.transposes) == ("x", "s", 1)
    assert found.order.tolist() == [0, 3, 1, 4, 2, 5]


def test_two_shuffles_in_a_row_are_one_and_can_be_rewritten_as_one() -> None:
    model = graph(SIGNATURE, shuffle("x", "s", (2, 3)) + shuffle("s", "t", (2, 3)) + "y = Relu(t)", {})
    (found,) = find_shuffles(model.graph)
    assert found.transposes == 2
    assert np.array_equal(found.order, np.arange(6)[[0, 3, 1, 4, 2, 5]][[0, 3, 1, 4, 2, 5]])


def test_a_shuffle_rewritten_does_another_order() -> None:
    """The new one is what is found afterwards; with no order left there is no Transpose."""
    model = graph(SIGNATURE, shuffle("x", "s", (2, 3)) + "y = Relu(s)", {})
    (found,) = find_shuffles(model.graph)
    left = rewrite(found, inverse(found.order))
    assert left is not None
    assert np.allclose(outputs(model)[0], np.maximum(floats(1, 6, 3, 3)[:, [0, 2, 4, 1, 3, 5]], 0))
    (again,) = find_shuffles(model.graph)
    assert (again.nodes, again.order.tolist()) == (left.nodes, left.order.tolist())
    assert rewrite(left, np.arange(6)) is None
    assert not list(find_shuffles(model.graph))
    assert np.allclose(outputs(model)[0], np.maximum(floats(1, 6, 3, 3), 0))


def test_the_order_between_reordered_ends() -> None:
    """Stored as u[:, a] and v[:, b] with v = u[:, o], what is left is a shuffle from one to the other."""
    generator = np.random.default_rng(0)
    model = graph(SIGNATURE, shuffle("x", "s", (2, 3)) + "y = Relu(s)", {})
    (found,) = find_shuffles(model.graph)
    u, a, b = floats(6), generator.permutation(6), generator.permutation(6)
    assert np.array_equal(u[a][found.order_between(a, b)], u[found.order][b])


def test_a_shuffle_may_flatten() -> None:
    """The end [N, C H W] counts as channels; without its Transpose a Reshape is left."""
    body = """split = Constant<value_ints = [1, 2, 3, 3, 3]>() flat = Constant<value_ints = [1, 54]>()
        a = Reshape(x, split) b = Transpose<perm = [0, 2, 1, 3, 4]>(a) c = Reshape(b, flat) y = Relu(c)"""
    model = graph("float[1,6,3,3] x => float[1,54] y", body, {})
    (found,) = find_shuffles(model.graph)
    assert found.order.tolist() == [0, 3, 1, 4, 2, 5]
    assert rewrite(found, np.arange(6)) is None
    assert [node.op_type for node in model.graph if node.op_type != "Constant"] == ["Reshape", "Relu"]
    assert_same_outputs(model, [np.maximum(floats(1, 6, 3, 3).reshape(1, 54), 0)])


@pytest.mark.parametrize(
    ("split", "perm", "whole"),
    [
        ("2, 1, 3, 3, 3", "1, 2, 0, 3, 4", "1, 6, 3, 3"),
        ("1, 6, 3, 3", "0, 1, 3, 2", "1, 6, 3, 3"),
        ("1, 2, 9, 3", "0, 2, 1, 3", "1, 6, 3, 3"),
        ("1, 2, 3, 3, 3", "0, 2, 1, 3, 4", "2, 3, 3, 3"),
    ],
    ids=["into the batch", "height with width", "rows with channels", "ends in another batch"],
)
def test_what_moves_more_than_channels_is_no_shuffle(split: str, perm: str, whole: str) -> None:
    body = f"""a_shape = Constant<value_ints = [{split}]>() c_shape = Constant<value_ints = [{whole}]>()
        a = Reshape(x, a_shape) b = Transpose<perm = [{perm}]>(a) c = Reshape(b, c_shape) y = Relu(c)"""
    model = graph(f"float[1,6,3,3] x => float[{whole.replace(' ', '')}] y", body, {})
    assert not list(find_shuffles(model.graph))


def test_transposes_that_see_other_images_are_no_shuffle_together() -> None:
    """The second moves parts of channels; behind it, nothing is whole again."""
    body = """split = Constant<value_ints = [1, 2, 3, 4, 4]>() parts = Constant<value_ints = [1, 4, 6, 2, 2]>()
        whole = Constant<value_ints = [1, 6, 4, 4]>() a = Reshape(x, split) b = Transpose<perm = [0, 2, 1, 3, 4]>(a)
        c = Reshape(b, parts) d = Transpose<perm = [0, 2, 1, 3, 4]>(c) e = Reshape(d, whole) y = Relu(e)"""
    assert not list(find_shuffles(graph("float[1,6,4,4] x => float[1,6,4,4] y", body, {}).graph))


def test_a_shuffle_whose_inside_is_read_is_none() -> None:
    body = shuffle("x", "s", (2, 3)) + "y = Relu(s) z = Relu(s_moved)"
    assert not list(find_shuffles(graph(f"{SIGNATURE}, float[1,3,2,3,3] z", body, {}).graph))


def test_a_new_shuffle_is_read_by_those_that_are_named() -> None:
    """It stands behind what makes the value, and is found as one."""
    model = graph(f"{SIGNATURE}, float[1,6,3,3] z", "a = Abs(x) y = Relu(a) z = Neg(a)", {})
    first, relu, _ = model.graph
    new = insert(first.outputs[0], np.array([0, 3, 1, 4, 2, 5]), [relu])
    (found,) = find_shuffles(model.graph)
    assert (found.nodes, found.order.tolist()) == (new.nodes, [0, 3, 1, 4, 2, 5])
    image = np.abs(floats(1, 6, 3, 3))
    assert_same_outputs(model, [image[:, [0, 3, 1, 4, 2, 5]], -image])


def test_no_shuffle_is_put_behind_what_is_no_image() -> None:
    model = graph("float[1,6] x => float[1,6] y", "a = Abs(x) y = Relu(a)", {})
    first, relu = model.graph
    with pytest.raises(CannotReorderError, match="no image"):
        insert(first.outputs[0], np.array([0, 3, 1, 4, 2, 5]), [relu])
