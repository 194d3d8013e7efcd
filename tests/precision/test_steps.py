"""The Convs of a layer are found by the names of their weights."""

import onnx

from kronexport.precision.steps import conv_steps, float_nodes, weighty_nodes


def graph(*weights: str) -> onnx.GraphProto:
    nodes = [onnx.helper.make_node("Conv", ["x", weight], ["y"], f"{weight}.node") for weight in weights]
    return onnx.helper.make_graph([*nodes, onnx.helper.make_node("Relu", ["x"], ["y"], "relu")], "g", [], [])


def test_steps_are_in_order_and_others_are_left_out() -> None:
    """A dense layer has one; ``layer1`` is not ``layer1.conv``."""
    found = conv_steps(
        graph("layer1.conv/step1.weight", "layer1.conv/step0.weight", "stem.weight", "layer10.conv.weight", "l/weight"),
        ["layer1.conv", "stem", "layer1", "l"],
    )
    assert found == {
        "layer1.conv": ["layer1.conv/step1.weight.node", "layer1.conv/step0.weight.node"],
        "stem": ["stem.weight.node"],
        "l": ["l/weight.node"],
    }


def test_every_other_node_with_a_weight_stands_for_itself() -> None:
    """By the layer of its weight, or by its own name where that is none, or there already; a Relu is none."""
    nodes = graph("a/step0.weight", "a/step1.weight", "b.weight", "b.weight", "merged").node
    nodes.append(onnx.helper.make_node("Gemm", ["x", "fc.weight"], ["y"], "linear"))
    nodes[3].name = "again"
    found = weighty_nodes(onnx.helper.make_graph(nodes, "g", [], []), ["a"])
    assert found == {
        "a": ["a/step0.weight.node", "a/step1.weight.node"],
        "b": ["b.weight.node"],
        "again": ["again"],
        "merged.node": ["merged.node"],
        "fc": ["linear"],
    }


def test_nodes_of_the_steps_that_are_named() -> None:
    """One that a merge took away does not count."""
    lowered = graph("a/step0.weight", "a/step1.weight", "b.weight")
    assert float_nodes(lowered, {"a": (1, 2)}) == ["a/step1.weight.node"]
    assert float_nodes(lowered, {"b": (0,), "a": ()}) == ["b.weight.node"]
    assert float_nodes(lowered, {}) == []
