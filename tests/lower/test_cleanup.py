"""Clean-up: what is folded or cancelled is gone, and what is left computes the same."""

from collections import Counter
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from kronexport.lower.cleanup import clean_up

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.standard_normal((2, 3, 7, 6)).astype(np.float32)


def model(nodes: list[NodeProto], constants: dict[str, NDArray[np.generic]], output: list[int]) -> ir.Model:
    """From ``x`` [2, 3, 7, 6] to ``y``."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, IMAGES.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))


def floats(*shape: int) -> NDArray[np.float32]:
    return GENERATOR.standard_normal(shape).astype(np.float32)


def conv(source: str, target: str, *, bias: bool) -> tuple[NodeProto, dict[str, NDArray[np.generic]]]:
    """A 3x3 conv to 5 channels without padding."""
    constants = {"weight": floats(5, 3, 3, 3), **({"bias": floats(5)} if bias else {})}
    return helper.make_node("Conv", [source, *constants], [target]), dict(constants)


def operators_after(before: ir.Model) -> Counter[str]:
    """Operators left by clean_up, whose outputs are compared with those before it."""
    reference = outputs(before)
    after = clean_up(before)
    np.testing.assert_allclose(outputs(after), reference, rtol=1e-4, atol=1e-5)
    return Counter([node.op_type for node in after.graph])


def outputs(of: ir.Model) -> NDArray[np.float32]:
    found: Any = ReferenceEvaluator(ir.to_proto(of)).run(None, {"x": IMAGES})
    return np.asarray(found[0], np.float32)


@pytest.mark.parametrize("bias", [True, False])
def test_a_batch_norm_folds_into_its_conv(bias: bool) -> None:  # noqa: FBT001  both are cases of one behaviour
    node, constants = conv("x", "features", bias=bias)
    constants |= {"gamma": floats(5), "beta": floats(5), "mean": floats(5), "variance": np.abs(floats(5)) + 0.5}
    norm = helper.make_node("BatchNormalization", ["features", "gamma", "beta", "mean", "variance"], ["y"])
    assert operators_after(model([node, norm], constants, [2, 5, 5, 4])) == {"Conv": 1}


def test_a_batch_norm_stays_where_its_conv_has_another_reader() -> None:
    """Folding it would change what the other reader sees."""
    node, constants = conv("x", "features", bias=True)
    constants |= {"gamma": floats(5), "beta": floats(5), "mean": floats(5), "variance": np.abs(floats(5)) + 0.5}
    norm = helper.make_node("BatchNormalization", ["features", "gamma", "beta", "mean", "variance"], ["normed"])
    both = helper.make_node("Add", ["features", "normed"], ["y"])
    kept = operators_after(model([node, norm, both], constants, [2, 5, 5, 4]))
    assert kept == {"Conv": 1, "BatchNormalization": 1, "Add": 1}


def test_zero_padding_folds_into_the_conv_behind_it() -> None:
    node, constants = conv("padded", "y", bias=True)
    constants["pads"] = np.array([0, 0, 1, 2, 0, 0, 2, 1], np.int64)
    pad = helper.make_node("Pad", ["x", "pads"], ["padded"])
    assert operators_after(model([pad, node], constants, [2, 5, 8, 7])) == {"Conv": 1}


def test_padding_with_another_value_stays() -> None:
    """A conv pads with zeros only."""
    node, constants = conv("padded", "y", bias=True)
    constants |= {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "value": np.full((), 2.0, np.float32)}
    pad = helper.make_node("Pad", ["x", "pads", "value"], ["padded"])
    assert operators_after(model([pad, node], constants, [2, 5, 7, 6])) == {"Pad": 1, "Conv": 1}


def test_transposes_that_cancel_are_gone() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["moved"], perm=[0, 2, 3, 1]),
        helper.make_node("Transpose", ["moved"], ["back"], perm=[0, 3, 1, 2]),
        helper.make_node("Relu", ["back"], ["y"]),
    ]
    assert operators_after(model(nodes, {}, [2, 3, 7, 6])) == {"Relu": 1}


def test_transposes_that_do_not_cancel_become_one() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["moved"], perm=[0, 2, 3, 1]),
        helper.make_node("Transpose", ["moved"], ["turned"], perm=[0, 2, 1, 3]),
        helper.make_node("Relu", ["turned"], ["y"]),
    ]
    assert operators_after(model(nodes, {}, [2, 6, 7, 3])) == {"Transpose": 1, "Relu": 1}


def test_of_two_reshapes_the_last_decides() -> None:
    shapes = {"flat": np.array([2, -1], np.int64), "split": np.array([2, 3, 42], np.int64)}
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["rows"]),
        helper.make_node("Reshape", ["rows", "split"], ["parts"]),
        helper.make_node("Relu", ["parts"], ["y"]),
    ]
    assert operators_after(model(nodes, dict(shapes), [2, 3, 42])) == {"Reshape": 1, "Relu": 1}


def test_identities_and_unused_nodes_are_gone() -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Abs", ["x"], ["nobody_reads_it"]),
        helper.make_node("Relu", ["same"], ["y"]),
    ]
    assert operators_after(model(nodes, {}, [2, 3, 7, 6])) == {"Relu": 1}


@pytest.mark.parametrize("channels", [2, 64])
def test_constants_of_equal_content_are_stored_once(channels: int) -> None:
    """Small and large ones, however they lie in memory: two layers that share a weight share one constant."""
    weight = floats(channels, channels, 3, 3)
    constants: dict[str, NDArray[np.generic]] = {"in": floats(channels, 3, 1, 1), "one": weight, "two": weight.copy()}
    nodes = [
        helper.make_node("Conv", ["x", "in"], ["a"]),
        helper.make_node("Conv", ["a", "one"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["b", "two"], ["y"], pads=[1, 1, 1, 1]),
    ]
    cleaned = model(nodes, constants, [2, channels, 7, 6])
    cleaned.graph.initializers["two"].const_value = ir.tensor(np.asfortranarray(weight), name="two")
    assert operators_after(cleaned) == {"Conv": 3}
    assert len(cleaned.graph.initializers) == 2
