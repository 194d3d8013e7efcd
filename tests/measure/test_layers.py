"""Times of a model's layers out of those of an engine's: by the nodes that each is made of."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kronexport.measure.layers import LayerTime, site_times, sites_of_nodes


def test_a_layer_counts_for_the_site_of_its_nodes() -> None:
    """Several for one; what has no node of a site counts for none."""
    layers = [
        LayerTime(("stem/0.Conv", "relu"), 2.0),
        LayerTime(("stem/1.Transpose",), 1.0),
        LayerTime(("head",), 5.0),
        LayerTime((), 100.0),
        LayerTime(("relu",), 50.0),
    ]
    sites = {"stem/0.Conv": "stem", "stem/1.Transpose": "stem", "head": "head"}
    assert site_times(layers, sites) == {"stem": 3.0, "head": 5.0}


def test_a_layer_of_two_sites_leaves_both_without_a_time() -> None:
    """What share each has nobody knows; no part of it is guessed."""
    layers = [LayerTime(("a", "b"), 2.0), LayerTime(("a",), 1.0), LayerTime(("c",), 4.0)]
    assert site_times(layers, {"a": "first", "b": "second", "c": "third"}) == {"third": 4.0}


def test_nodes_are_of_the_site_that_their_name_or_their_weight_tells(tmp_path: Path) -> None:
    """The steps of a factorized layer by their own names, a dense Conv by its weight, in int8 behind its pair."""
    weight = numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "block.conv.weight")
    eight = numpy_helper.from_array(np.ones((2, 2, 1, 1), np.int8), "fc.weight")
    scale = numpy_helper.from_array(np.array(1.0, np.float32), "scale")
    nodes = [
        helper.make_node("Conv", ["x", "block.conv.weight"], ["a"], "node_conv2d"),
        helper.make_node("DequantizeLinear", ["fc.weight", "scale"], ["w"], "pair"),
        helper.make_node("Conv", ["a", "w"], ["b"], "node_conv2d_1"),
        helper.make_node("Transpose", ["b"], ["c"], "stem/1.Transpose", perm=[0, 1, 3, 2]),
        helper.make_node("Transpose", ["c"], ["d"], "other/1.Transpose", perm=[0, 1, 3, 2]),
        helper.make_node("Relu", ["d"], ["y"], "relu"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 2, 4, 4)) for name in "xy")
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "net", [x], [y], [weight, eight, scale])), path)
    assert sites_of_nodes(path, ["block.conv", "fc", "stem"]) == {
        "node_conv2d": "block.conv",
        "node_conv2d_1": "fc",
        "stem/1.Transpose": "stem",
    }
