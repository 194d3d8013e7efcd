"""The precision of each layer is read off the engine, and what was silently not built is an error."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from kronexport.backends.profile import Precision
from kronexport.backends.trt_model import asked_precisions, route_of, weak_typing_note
from kronexport.backends.trt_precision import EngineLayer, parse_layers, prove_precision
from kronexport.errors import KronexportError, VerificationError
from tests.backends.models import quantized_tiny_model, save_tiny_model

INT8 = "Thirty-two wide channel vectorized row major Int8 format"
FP16 = "Channel major FP16 format where channel % 8 == 0"


def layer(name: str, kind: str = "Row major linear FP32", **more: object) -> dict[str, Any]:
    tensor = {"Name": "t", "Location": "Device", "Dimensions": [1, 8, 4, 4], "Format/Datatype": kind}
    return {"Name": name, "LayerType": "CaskConvolution", "Inputs": [tensor], "Outputs": [tensor], **more}


def layers(*rows: object) -> tuple[EngineLayer, ...]:
    return parse_layers(json.dumps({"Layers": rows, "Bindings": ["x", "y"]}))


@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        ("Row major linear FP32", "fp32"),
        ("Row major linear FP16 format", "fp16"),
        (FP16, "fp16"),
        (INT8, "int8"),
        ("Four wide channel vectorized row major Int8 format.", "int8"),
        ("Half", "fp16"),
        ("Float", "fp32"),
        ("Int8", "int8"),
        ("BFloat16", "bf16"),
        ("N/A due to dynamic shapes", None),
    ],
)
def test_a_format_says_its_type(kind: str, precision: str | None) -> None:
    (found,) = layers(layer("conv", kind))
    assert found.precision == precision


def test_weights_say_more_than_inputs_and_the_tactic_more_than_both() -> None:
    """A first layer may read floats and compute in int8; TF32 shows in the tactic alone."""
    first, second = layers(
        layer("a", Weights={"Type": "Int8", "Count": 9}), layer("b", TacticName="sm80_xmma_fprop_tf32f32_tf32f32")
    )
    assert (first.precision, second.precision) == ("int8", "tf32")


def test_nodes_are_found_in_names_and_in_metadata() -> None:
    """Of older releases and of later ones, whose names are made up."""
    old, new = layers(
        layer("conv1.weight + QuantizeLinear_3 + conv1 + relu1"),
        layer("__myl_ConvRelu_0", Metadata="[ONNX Layer: conv1]\x1e[ONNX Layer: relu1]"),
    )
    assert {"conv1", "relu1"} <= set(old.nodes)
    assert {"conv1", "relu1"} <= set(new.nodes)


def test_an_engine_as_asked_is_proven_node_by_node() -> None:
    asked: dict[str, Precision] = {"conv1": "int8", "conv2": "fp32"}
    found = prove_precision(layers(layer("conv1 + relu1", INT8), layer("conv2"), layer("reformat", INT8)), asked)
    assert found.found == {"conv1": "int8", "conv2": "fp32"}
    assert found.others == {}


@pytest.mark.parametrize(
    ("asked", "kind", "message"),
    [
        ("int8", "Row major linear FP32", r"conv1 \(fp32 instead of int8\)"),
        ("fp16", "Row major linear FP32", r"conv1 \(fp32 instead of fp16\)"),
        ("fp32", FP16, r"conv1 \(fp16 instead of fp32\)"),
        ("int8", "N/A", r"conv1 \(int8 not shown by the engine\)"),
    ],
)
def test_what_was_silently_not_built_is_an_error(asked: Precision, kind: str, message: str) -> None:
    """Exit code 4, with the node; a fallback that is allowed is told, not hidden."""
    built = layers(layer("conv1", kind), layer("conv2", FP16))
    with pytest.raises(VerificationError, match=f"1 of 2 nodes do not run in .*{message}"):
        prove_precision(built, {"conv1": asked, "conv2": "fp16"})
    found = prove_precision(built, {"conv1": asked, "conv2": "fp16"}, allow_fallback=True)
    assert list(found.others) == ["conv1"]


def test_tf32_is_no_fp32() -> None:
    with pytest.raises(VerificationError, match=r"conv1 \(tf32 instead of fp32\)"):
        prove_precision(layers(layer("conv1", TacticName="tf32f32")), {"conv1": "fp32"})


def test_a_node_that_no_layer_names_is_not_proven() -> None:
    with pytest.raises(VerificationError, match=r"gone \(fp32 not shown by the engine\)"):
        prove_precision(layers(layer("conv1")), {"conv1": "fp32", "gone": "fp32"})


def test_a_long_list_is_cut() -> None:
    asked: dict[str, Precision] = {f"conv{index}": "int8" for index in range(9)}
    with pytest.raises(VerificationError, match=r"9 of 9 nodes .*conv4 .* and 4 more; build in"):
        prove_precision(layers(layer("other")), asked)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "exportLayerInfo: no JSON"),
        ("[]", "no Layers"),
        ('{"Layers": []}', "no Layers"),
        ('{"Layers": {}}', "no Layers"),
        ('{"Layers": ["conv1 + relu1"]}', "names alone, expected objects: build with --profilingVerbosity=detailed"),
        ('{"Layers": [{"LayerType": "Cask"}]}', "names alone"),
    ],
)
def test_layer_information_of_another_form_is_refused(text: str, message: str) -> None:
    with pytest.raises(KronexportError, match=message):
        parse_layers(text)


def test_a_layer_without_inputs_says_nothing() -> None:
    (found,) = layers({"Name": "constant", "LayerType": "Constant", "Inputs": []})
    assert found.precision is None


# --- what a model asks for ----------------------------------------------------------------------------------------


def test_a_model_says_its_precision_itself(tmp_path: Path) -> None:
    in_float = onnx.load(save_tiny_model(tmp_path / "float.onnx"))
    assert (route_of(in_float), asked_precisions(in_float)) == ("float-onnx", {"conv": "fp32"})
    in_int8 = onnx.load(quantized_tiny_model(tmp_path / "float.onnx"))
    assert (route_of(in_int8), asked_precisions(in_int8)) == ("qdq-symmetric", {"conv": "int8"})


def test_a_model_typed_fp16_asks_for_it_where_its_weights_are() -> None:
    """One layer that overflows stays in fp32, and asks for that."""
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "half"], ["a"], "one"),
            helper.make_node("Cast", ["a"], ["b"], "cast", to=TensorProto.FLOAT),
            helper.make_node("Conv", ["b", "full"], ["y"], "two"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, (1, 1, 2, 2))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            helper.make_tensor("half", TensorProto.FLOAT16, (1, 1, 1, 1), [1.0]),
            helper.make_tensor("full", TensorProto.FLOAT, (1, 1, 1, 1), [1.0]),
        ],
    )
    model = helper.make_model(graph)
    assert route_of(model) == "fp16-onnx"
    assert asked_precisions(model) == {"one": "fp16", "two": "fp32"}


def parsed(body: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]> {body}""")


def test_a_product_of_two_activations_asks_for_nothing() -> None:
    model = parsed("g (float[2, 2] x) => (float[2, 2] y) { a = Relu(x)  [product] y = MatMul(a, x) }")
    assert asked_precisions(model) == {}


def test_fp16_whose_weights_are_all_kept_in_float_is_fp16_still_and_release_8_may_not_obey() -> None:
    model = parsed(
        """g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) <float[4, 4, 1, 1] w> {
            a = Cast<to = 10>(x)
            b = Relu(a)
            c = Cast<to = 1>(b)
            [kept] y = Conv(c, w)
        }"""
    )
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [4, 4, 1, 1], [0.0] * 16))
    assert (route_of(model), asked_precisions(model)) == ("fp16-onnx", {"kept": "fp32"})
    assert "may run the 1 nodes in FP16" in weak_typing_note(model, "8.6.2")[0]
    assert weak_typing_note(model, "10.3") == ()
