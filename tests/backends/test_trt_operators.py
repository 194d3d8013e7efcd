"""What TensorRT's parser would refuse is refused here, by the table of its release."""

import json
import math
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from kronexport.backends import BACKENDS
from kronexport.backends.profile import load_target
from kronexport.backends.trt_operators import check_operators, table_for
from kronexport.errors import KronexportError
from tests.backends.models import quantized_tiny_model, save_tiny_model

SHAPE = (1, 8, 4, 4)


def model_of(
    *nodes: onnx.NodeProto, opset: int = 13, kind: int = TensorProto.FLOAT, **tensors: tuple[int, ...]
) -> onnx.ModelProto:
    """From x to y, with weights of the given shapes."""
    weights = [helper.make_tensor(name, kind, shape, [0.5] * math.prod(shape)) for name, shape in tensors.items()]
    ends = [
        helper.make_tensor_value_info("x", kind, SHAPE),
        helper.make_tensor_value_info("y", kind, None),
    ]
    graph = helper.make_graph(nodes, "one", ends[:1], ends[1:], weights)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("org.example", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=7)


@pytest.mark.parametrize(
    ("version", "release", "exact", "opset"),
    [
        ("8.2.1", "8.2", True, 13),
        ("8.5.2", "8.5", True, 17),
        ("8.6.2", "8.6", True, 17),
        ("10.1.0", "10.0-10.1", True, 20),
        ("10.3", "10.0-10.1", False, 20),
        ("10.16", "10.0-10.1", False, 20),
        ("11.4.1", "10.0-10.1", False, 20),
    ],
)
def test_a_release_has_its_table_or_the_last_one_before_it(
    version: str, release: str, *, exact: bool, opset: int
) -> None:
    table = table_for(version)
    assert (table.release, table.exact, table.max_opset) == (release, exact, opset)


def test_a_release_before_all_tables_is_refused() -> None:
    with pytest.raises(KronexportError, match=r"TensorRT 7\.1: no table of operators; expected 8\.2 or later"):
        table_for("7.1")


@pytest.mark.parametrize(("version", "known"), [("8.6.2", True), ("10.3", False), ("11.4.1", False)])
def test_the_note_says_what_was_checked_and_by_which_table(version: str, tmp_path: Path, *, known: bool) -> None:
    note = check_operators(onnx.load(save_tiny_model(tmp_path / "m.onnx")), version, "m.onnx")
    assert note.startswith("static check without a device: 2 nodes of 2 operators, their types, opset 17")
    assert (f"the last one known; {version} itself was not checked" in note) != known


@pytest.mark.parametrize("version", ["8.2.1", "8.6.2", "10.3", "11.4.1"])
def test_a_symmetric_int8_model_passes_in_every_release(version: str, tmp_path: Path) -> None:
    path = quantized_tiny_model(save_tiny_model(tmp_path / "m.onnx", opset=13, ir_version=7))
    assert "zero points and int8 groups" in check_operators(onnx.load(path), version, "m.onnx")


@pytest.mark.parametrize(
    ("version", "model", "complaint"),
    [
        (
            "8.2.1",
            model_of(helper.make_node("HardSwish", ["x"], ["y"], "swish"), opset=14),
            "HardSwish 'swish': no such",
        ),
        ("8.6.2", model_of(helper.make_node("Relu", ["x"], ["y"]), opset=18), "opset 18, expected at most 17"),
        (
            "8.6.2",
            model_of(helper.make_node("Relu", ["x"], ["y"], "relu"), kind=TensorProto.BFLOAT16),
            "Relu 'relu': data of BF16, expected FP32, FP16, INT8; build in another --precision",
        ),
        (
            "8.6.2",
            model_of(helper.make_node("Gizmo", ["x"], ["y"], "gizmo", domain="org.example")),
            "Gizmo 'gizmo': no such operator there",
        ),
        (
            "10.3",
            model_of(helper.make_node("MaxPool", ["x"], ["y"], "pool", kernel_shape=[2, 2], dilations=[2, 2])),
            r"MaxPool 'pool': dilations \[2, 2\], expected ones",
        ),
        (
            "8.6.2",
            model_of(helper.make_node("MaxPool", ["x"], ["y", "indices"], "pool", kernel_shape=[2, 2])),
            "MaxPool 'pool': its indices are read",
        ),
    ],
    ids=["operator", "opset", "type", "domain", "dilations", "indices"],
)
def test_what_the_parser_would_refuse_is_named(version: str, model: onnx.ModelProto, complaint: str) -> None:
    """Node, operator, type, and what to do; exit code 1."""
    with pytest.raises(KronexportError, match=complaint):
        check_operators(model, version, "model.onnx")


def pair(zero_kind: int, zero: int) -> onnx.ModelProto:
    model = model_of(
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], "dequantize"),
        scale=(),
    )
    model.graph.initializer.append(helper.make_tensor("zero", zero_kind, (), [zero]))
    return model


def test_a_zero_point_other_than_0_of_int8_is_refused() -> None:
    """As activations for CPUs have it, and as a quantized bias has it."""
    assert check_operators(pair(TensorProto.INT8, 0), "8.6.2", "m")
    for kind, zero in ((TensorProto.UINT8, 128), (TensorProto.UINT8, 0), (TensorProto.INT8, 3)):
        with pytest.raises(KronexportError, match="'quantize': zero point, expected a constant 0 of INT8"):
            check_operators(pair(kind, zero), "8.6.2", "m")


def test_a_quantized_bias_is_refused() -> None:
    """An INT32 behind a DequantizeLinear, as ONNX Runtime's quantizer makes it by default."""
    model = model_of(helper.make_node("DequantizeLinear", ["b", "scale"], ["bias"], "bias"), scale=())
    model.graph.node.append(helper.make_node("Identity", ["x"], ["y"], "identity"))
    model.graph.initializer.append(helper.make_tensor("b", TensorProto.INT32, (1,), [5]))
    with pytest.raises(KronexportError, match="DequantizeLinear 'bias': data of INT32, expected INT8"):
        check_operators(model, "8.6.2", "m")


def test_groups_that_int8_does_not_have_are_refused() -> None:
    """Only behind Q/DQ: in float any groups are let be."""
    conv = helper.make_node("Conv", ["x", "w"], ["y"], "conv", group=4)
    assert check_operators(model_of(conv, w=(8, 2, 1, 1)), "8.6.2", "m")
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "scale", "zero"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["v"], "dequantize"),
        helper.make_node("Conv", ["x", "v"], ["y"], "conv", group=4),
    ]
    model = model_of(*nodes, w=(8, 2, 1, 1), scale=())
    model.graph.initializer.append(helper.make_tensor("zero", TensorProto.INT8, (), [0]))
    with pytest.raises(KronexportError, match="Conv 'conv': 4 groups of 2 to 2 channels in int8"):
        check_operators(model, "8.6.2", "m")


def test_shapes_in_int64_are_taken_for_int32_where_there_are_no_others() -> None:
    """TensorRT 8 reads INT64 as INT32."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], "shape"),
        helper.make_node("Reshape", ["x", "s"], ["y"], "reshape"),
    ]
    assert check_operators(model_of(*nodes), "8.2.1", "m")


def test_the_backend_checks_before_it_writes_anything(tmp_path: Path) -> None:
    model = onnx.load(save_tiny_model(tmp_path / "model.onnx"))
    model.graph.node[1].op_type = "Bernoulli"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(KronexportError, match=r"model\.onnx: TensorRT 8\.6\.2 would refuse it, .*Bernoulli 'relu'"):
        BACKENDS["tensorrt"].compile(tmp_path / "model.onnx", tmp_path / "compiled", load_target("jetson"))
    assert not (tmp_path / "compiled").exists()


def test_the_backend_hands_on_what_was_checked(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model.onnx")
    compiled = BACKENDS["tensorrt"].compile(model, tmp_path / "compiled", load_target("jetson"))
    (note,) = compiled.notes
    assert note.startswith("static check without a device: ")


def test_an_error_names_a_few_and_counts_the_rest() -> None:
    names = "abcdefg"
    nodes = [helper.make_node("Gizmo", ["x"], [name], name, domain="org.example") for name in names]
    nodes.append(helper.make_node("Identity", ["g"], ["y"], "end"))
    with pytest.raises(KronexportError, match=r"'e': no such.*; and 2 more$"):
        check_operators(model_of(*nodes), "8.6.2", "m")


def test_the_table_is_one_json_of_known_types() -> None:
    """Misprints of the source are mended by the script that made it."""
    path = Path(__file__).parents[2] / "kronexport" / "backends" / "trt_operators.json"
    releases = json.loads(path.read_text(encoding="utf-8"))["releases"]
    kinds = {kind for row in releases.values() for operator in row["operators"].values() for kind in operator["types"]}
    assert kinds == {"FP32", "FP16", "BF16", "FP8", "INT32", "INT64", "INT8", "INT4", "UINT8", "BOOL"}
    assert list(releases) == ["8.2", "8.5", "8.6", "10.0-10.1"]
