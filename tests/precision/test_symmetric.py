"""Int8 as TensorRT reads it: what its parser refuses is not there, and what it fuses is not split."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from kronexport import agent
from kronexport.export.onnx_export import export_onnx
from kronexport.lower.lowering import lower
from kronexport.precision.groups import int8_group_fits
from kronexport.precision.quantize import Scheme, quantized
from kronexport.records import InputSpec
from kronexport.verify.outputs import run_onnx
from tests.small_network import SHAPE, images, small

NEAR = 0.1
"""Relative L2 of 8 bits over a few layers."""

SYMMETRIC = Scheme(symmetric=True)


def network(nodes: Sequence[onnx.NodeProto], weights: dict[str, tuple[int, ...]], channels: int) -> onnx.ModelProto:
    """From x [1, channels, 6, 6] to y of unknown shape, with seeded weights."""
    generator = np.random.default_rng(1)
    shape = (1, channels, 6, 6)
    tensors = [
        numpy_helper.from_array((0.3 * generator.standard_normal(size)).astype(np.float32), name)
        for name, size in weights.items()
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def residual() -> onnx.ModelProto:
    """Two Convs into an Add and a Relu, as where a residual block begins, then another Conv."""
    nodes = [
        helper.make_node("Conv", ["x", "one.weight", "bias"], ["a"], "one"),
        helper.make_node("Conv", ["x", "two.weight", "bias"], ["b"], "two"),
        helper.make_node("Add", ["a", "b"], ["c"], "add"),
        helper.make_node("Relu", ["c"], ["d"], "relu"),
        helper.make_node("Conv", ["d", "three.weight", "bias"], ["y"], "three"),
    ]
    names = ("one.weight", "two.weight", "three.weight")
    return network(nodes, {**dict.fromkeys(names, (8, 8, 1, 1)), "bias": (8,)}, 8)


def feeds(model: onnx.ModelProto) -> list[dict[str, NDArray[np.float32]]]:
    shape = [dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim]
    generator = np.random.default_rng(0)
    return [{"x": generator.standard_normal(shape, np.float32)} for _ in range(4)]


def makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {output: node for node in model.graph.node for output in node.output}


def error(model: onnx.ModelProto, other: onnx.ModelProto, image: NDArray[np.float32], folder: Path) -> float:
    """Relative L2 of the only output of the one from that of the other, in ONNX Runtime."""
    found = []
    for name, proto in (("one", model), ("other", other)):
        onnx.save(proto, folder / f"{name}.onnx")
        (output,) = run_onnx(folder / f"{name}.onnx", image).values()
        found.append(output)
    return agent.rel_l2(*found)


def check_as_tensorrt_reads_it(model: onnx.ModelProto) -> None:
    """Pairs alone, with zero points 0 of INT8; a Conv has a float bias and a weight scaled per output channel."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made = makers(model)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = values[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
        if node.op_type == "DequantizeLinear":
            assert made[node.input[0]].op_type == "QuantizeLinear"
            assert made[node.input[0]].input[1] == node.input[1]
        if node.op_type == "Conv":
            assert all(values[name].dtype == np.float32 for name in node.input[2:])
            if node.input[1] not in values:
                dequantize = made[node.input[1]]
                (axis,) = (attribute.i for attribute in dequantize.attribute if attribute.name == "axis")
                weight = values[made[dequantize.input[0]].input[0]]
                assert (axis, weight.dtype) == (0, np.dtype(np.float32))
                assert values[dequantize.input[1]].shape == (len(weight),)


@pytest.fixture(scope="module")
def small_in_float() -> onnx.ModelProto:
    """The small network lowered for JetPack 4, dense."""
    return ir.to_proto(lower(export_onnx(small(), InputSpec("x", SHAPE)), {}, 13))


def test_the_small_network_is_what_tensorrt_reads_and_computes_nearly_the_same(
    small_in_float: onnx.ModelProto, tmp_path: Path
) -> None:
    """Numbers are those of ONNX Runtime: that TensorRT computes the same only a board can show."""
    shots = images(8)
    found = quantized(small_in_float, [{"x": image[None]} for image in shots], SYMMETRIC)
    check_as_tensorrt_reads_it(found)
    onnx.checker.check_model(found, full_check=True)
    made = makers(found)
    convs = [node for node in found.graph.node if node.op_type == "Conv"]
    assert len(convs) == 2
    assert all(made[name].op_type == "DequantizeLinear" for node in convs for name in node.input[:2])
    assert 1e-4 < error(found, small_in_float, shots, tmp_path) < NEAR


def test_no_pair_stands_between_a_conv_and_its_activation(small_in_float: onnx.ModelProto) -> None:
    """TensorRT computes both in one kernel; the pair behind the activation is the kernel's own output."""
    found = quantized(small_in_float, [{"x": image[None]} for image in images(4)], SYMMETRIC)
    made = makers(found)
    relus = [node for node in found.graph.node if node.op_type == "Relu"]
    assert len(relus) == 2
    for relu in relus:
        assert made[relu.input[0]].op_type == "Conv"
        assert [node.op_type for node in found.graph.node if relu.output[0] in node.input] == ["QuantizeLinear"]


def test_one_conv_reaches_its_residual_add_as_it_is(tmp_path: Path) -> None:
    """The other input stays behind its pair, and what the Add makes goes straight to the activation."""
    model = residual()
    found = quantized(model, feeds(model), SYMMETRIC)
    check_as_tensorrt_reads_it(found)
    made = makers(found)
    (add,) = (node for node in found.graph.node if node.op_type == "Add")
    assert sorted(made[name].op_type for name in add.input) == ["Conv", "DequantizeLinear"]
    (relu,) = (node for node in found.graph.node if node.op_type == "Relu")
    assert made[relu.input[0]].op_type == "Add"
    assert 1e-4 < error(found, model, feeds(model)[0]["x"], tmp_path) < NEAR


def test_a_pair_that_two_read_stays() -> None:
    """Here the Conv's output is a residual too: it has to be there in 8 bits."""
    nodes = [
        helper.make_node("Conv", ["x", "one.weight"], ["a"], "one"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "two.weight"], ["c"], "two"),
        helper.make_node("Add", ["a", "c"], ["y"], "add"),
    ]
    model = network(nodes, {"one.weight": (8, 8, 1, 1), "two.weight": (8, 8, 1, 1)}, 8)
    found = quantized(model, feeds(model), SYMMETRIC)
    made = makers(found)
    (relu,) = (node for node in found.graph.node if node.op_type == "Relu")
    assert made[relu.input[0]].op_type == "DequantizeLinear"


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    groups=st.sampled_from([1, 2, 3, 4]),
    channels=st.tuples(*[st.sampled_from([1, 2, 3, 4, 8])] * 2),
    activation=st.sampled_from(["Relu", "Sigmoid"]),
)
def test_groups_that_tensorrt_has_no_int8_for_stay_in_float(
    groups: int, channels: tuple[int, int], activation: str, tmp_path: Path
) -> None:
    """And no others: a Conv in groups, an activation and a pointwise Conv, of random channels per group."""
    taken, given_back = channels
    nodes = [
        helper.make_node("Conv", ["x", "first.weight", "bias"], ["a"], "first", group=groups, pads=[1, 1, 1, 1]),
        helper.make_node(activation, ["a"], ["b"], "activation"),
        helper.make_node("Conv", ["b", "second.weight"], ["y"], "second"),
    ]
    filters = groups * given_back
    weights = {"first.weight": (filters, taken, 3, 3), "bias": (filters,), "second.weight": (5, filters, 1, 1)}
    model = network(nodes, weights, groups * taken)
    found = quantized(model, feeds(model), SYMMETRIC)
    check_as_tensorrt_reads_it(found)
    read = {node.name: node.input[1] for node in found.graph.node if node.op_type == "Conv"}
    assert (read["first"] != "first.weight") == int8_group_fits(groups, taken, given_back)
    assert read["second"] != "second.weight"
    assert error(found, model, feeds(model)[0]["x"], tmp_path) < NEAR
