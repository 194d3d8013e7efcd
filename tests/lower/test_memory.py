"""Memory of a graph against counts by hand."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from kronexport.errors import UserInputError
from kronexport.lower.memory import GraphMemory, graph_memory

IMAGE = 4 * 8 * 6 * 6
"""Bytes of 8 channels of 6x6."""


def model(body: str, result: str = "float[1, 8, 6, 6] y") -> ir.Model:
    """Values are shaped by inference."""
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[1, 8, 6, 6] x) => ({result}) {{ {body} }}'
    return ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text), strict_mode=True))


def test_a_chain_holds_two_images_at_a_time() -> None:
    found = graph_memory(model("a = Relu(x) b = Sigmoid(a) y = Relu(b)"))
    assert found == GraphMemory(0, 2 * IMAGE)


def test_a_branch_holds_its_input_until_it_is_read_again() -> None:
    """x, a and b while b is made; x and b are added afterwards."""
    assert graph_memory(model("a = Relu(x) b = Sigmoid(a) y = Add(x, b)")).activations == 3 * IMAGE


def test_views_take_no_memory_and_keep_what_they_are_of() -> None:
    """Alive at once are a, of which v is a view, c and d."""
    body = """v = Flatten <axis = 2> (a) c = Sigmoid(v) d = Add(c, v) s = Constant <value_ints = [1, 8, 6, 6]> ()
    y = Reshape(d, s)"""
    assert graph_memory(model(f"a = Relu(x) {body}")).activations == 3 * IMAGE
    alone = graph_memory(model("a = Relu(x) v = Flatten <axis = 2> (a) y = Sigmoid(v)", "float[8, 36] y"))
    assert alone.activations == 2 * IMAGE


def test_outputs_stay_to_the_end() -> None:
    """Alive at last are y, which was made first, a and z."""
    results = "float[1, 8, 6, 6] y, float[1, 8, 6, 6] z"
    assert graph_memory(model("y = Relu(x) a = Relu(x) z = Sigmoid(a)", results)).activations == 3 * IMAGE


def test_images_of_other_sizes_and_types_count_as_they_are() -> None:
    body = "a = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x) y = Cast <to = 10> (a)"
    found = graph_memory(model(body, "float16[1, 8, 3, 3] y"))
    assert found.activations == IMAGE + IMAGE // 4


def test_weights_are_counted_once_and_are_no_activations() -> None:
    built = model("y = Relu(x)")
    weight = ir.tensor(np.zeros((5, 3), np.float32), name="w")
    value = ir.Value(name="w", const_value=weight, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape((5, 3)))
    built.graph.register_initializer(value)
    assert graph_memory(built) == GraphMemory(4 * 15, 2 * IMAGE)


def test_in_int8_images_take_a_byte_an_element_and_weights_stay_weights() -> None:
    """The float image that is quantized is alive beside its bytes once; what reads them makes nothing in between."""
    body = """q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
    w = DequantizeLinear(k, s, z) y = Conv(d, w)"""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 8, 6, 6] x) => (float[1, 2, 6, 6] y)
    <float s = {{0.1}}, int8 z = {{0}}, int8[2, 8, 1, 1] k = {{{", ".join("1" * 16)}}}> {{ {body} }}"""
    found = graph_memory(ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))))
    assert found == GraphMemory(2 * 8 + 4 + 1, IMAGE + IMAGE // 4)


def test_in_int8_what_a_layer_makes_is_written_as_integers() -> None:
    """Also behind an activation; a weight that is quantized in the graph stays a weight."""
    pair = "QuantizeLinear({0}, s, z) {1} = DequantizeLinear({2}, s, z)"
    body = f"""q = {pair.format("x", "d", "q")} kq = {pair.format("k", "w", "kq")}
    a = Conv(d, w) r = Relu(a) rq = {pair.format("r", "e", "rq")} b = Conv(e, w) bq = {pair.format("b", "y", "bq")}"""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 8, 6, 6] x) => (float[1, 8, 6, 6] y)
    <float s = {{0.1}}, int8 z = {{0}}, float[8, 8, 1, 1] k = {{{", ".join("1" * 64)}}}> {{ {body} }}"""
    found = graph_memory(ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))))
    assert found == GraphMemory(4 * 64 + 4 + 1, IMAGE + IMAGE // 4)


def test_a_shape_that_is_not_static_is_named() -> None:
    built = model("y = Relu(x)")
    built.graph.inputs[0].shape = ir.Shape(("N", 8, 6, 6))
    with pytest.raises(UserInputError, match=r"x: shape \[N,8,6,6\] is not static"):
        graph_memory(built)
