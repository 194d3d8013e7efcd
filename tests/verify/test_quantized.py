"""The int8 model keeps the tolerance: layers that move the outputs most stay in float."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from kronexport.errors import VerificationError
from kronexport.precision.quantize import Scheme
from kronexport.verify.outputs import run_onnx
from kronexport.verify.quantized import verify_quantized
from kronexport.verify.stages import VerifiedModel

SHAPE = (2, 8, 6, 6)
IMAGES = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
FEEDS = [{"x": IMAGES}]
SITES = ["mild", "harsh"]


@pytest.fixture
def verified(tmp_path: Path) -> VerifiedModel:
    """Two Convs, the second of weights that 8 bits lose beside a large one, which is for a channel of zeros."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        pair (float[2, 8, 6, 6] x) => (float[2, 8, 6, 6] y) {
            [one] a = Conv(x, mild_weight)
            [two] b = Conv(a, harsh_weight)
            [turn] y = Transpose<perm = [0, 1, 3, 2]>(b)
        }"""
    )
    for node in model.graph.node:  # the text form has no dots in names
        node.input[:] = [name.replace("_weight", ".weight") for name in node.input]
    generator = np.random.default_rng(1)
    mild, harsh = (generator.standard_normal((8, 8, 1, 1), np.float32) for _ in range(2))
    mild[0] *= 1e-6
    harsh[:, 0] = 1000
    for name, values in (("mild.weight", mild), ("harsh.weight", harsh)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    return VerifiedModel(path, run_onnx(path, IMAGES), (), ())


def in_float(model: VerifiedModel) -> set[str]:
    """Names of the Convs that read a float weight."""
    nodes = onnx.load(model.path).graph.node
    return {node.name for node in nodes if node.op_type == "Conv" and node.input[1].endswith(".weight")}


def verify(verified: VerifiedModel, tolerance: float, **steps: tuple[int, ...]) -> VerifiedModel:
    return verify_quantized(verified, IMAGES, FEEDS, Scheme(), sites=SITES, float_steps=steps, tolerance=tolerance)


def test_all_is_quantized_where_the_tolerance_allows_it(verified: VerifiedModel) -> None:
    found = verify(verified, 10.0)
    assert in_float(found) == set()
    assert found.notes == ()
    assert found.path != verified.path
    assert [check.stage for check in found.checks] == ["quantized"]
    assert found.checks[0].against == "simplified"


def test_steps_that_are_faster_in_float_stay_so(verified: VerifiedModel) -> None:
    found = verify(verified, 10.0, mild=(0,))
    assert in_float(found) == {"one"}
    assert "1 nodes stay in float" in found.notes[0]


def test_the_layer_that_moves_the_outputs_most_stays_in_float(verified: VerifiedModel) -> None:
    """The other one is still quantized, and the note names the one."""
    found = verify(verified, 0.3)
    assert in_float(found) == {"two"}
    assert "harsh" in found.notes[-1]
    assert "mild" not in found.notes[-1]
    assert (found.checks[0].rel_l2 or 1) <= 0.3


def test_what_is_no_site_may_stay_in_float_too(verified: VerifiedModel) -> None:
    """As a depthwise convolution of MobileNetV2, or a layer that was excluded."""
    found = verify_quantized(verified, IMAGES, FEEDS, Scheme(), sites=["mild"], float_steps={}, tolerance=0.3)
    assert in_float(found) == {"two"}
    assert found.notes[-1].endswith("move the outputs most: harsh")


def test_a_tolerance_that_no_choice_keeps_is_refused(verified: VerifiedModel) -> None:
    with pytest.raises(
        VerificationError, match=r"quantized: outputs differ from simplified's .* all nodes are in float"
    ):
        verify(verified, 1e-12)


@pytest.mark.parametrize(("last", "first"), [("Softmax(m)", "m = Add(a, mask)"), ("Log(m)", "m = Sigmoid(a)")])
def test_a_node_that_is_no_layer_may_be_the_one(tmp_path: Path, last: str, first: str) -> None:
    """As the mask of an attention, beside which 8 bits are nothing, or a logarithm of what 8 bits make 0."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2, 8, 6, 6] x) => (float[2, 8, 6, 6] y) {{
            [one] a = Conv(x, weight) [first] {first} [second] y = {last}
        }}"""
    )
    generator = np.random.default_rng(1)
    mask = np.where(np.arange(6) < 3, 0, -1e9).astype(np.float32)
    weight = generator.standard_normal((8, 8, 1, 1), np.float32)
    for name, values in (("weight", weight), ("mask", mask)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    before = VerifiedModel(path, run_onnx(path, IMAGES), (), ())
    found = verify_quantized(before, IMAGES, FEEDS, Scheme(), sites=[], float_steps={}, tolerance=0.1)
    nodes = onnx.load(found.path).graph.node
    (conv,) = (node for node in nodes if node.op_type == "Conv")
    assert conv.input[1] != "weight"
    assert "move the outputs most" in found.notes[-1]


def test_groups_without_int8_stay_in_float_and_are_named(tmp_path: Path) -> None:
    """By the runtime's rule, whatever the tolerance; the note says which Conv and why."""
    weight = np.random.default_rng(2).standard_normal((8, 2, 1, 1), np.float32)
    node = onnx.helper.make_node("Conv", ["x", "mild.weight"], ["y"], "one", group=4)
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, SHAPE) for name in "xy"]
    graph = onnx.helper.make_graph(
        [node], "one", ends[:1], ends[1:], [onnx.numpy_helper.from_array(weight, "mild.weight")]
    )
    path = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    model = VerifiedModel(path, run_onnx(path, IMAGES), (), ())
    found = verify_quantized(model, IMAGES, FEEDS, Scheme(symmetric=True), sites=SITES, float_steps={}, tolerance=10.0)
    assert in_float(found) == {"one"}
    assert found.notes[-1] == "int8: the runtime has no int8 for groups of 1 Convs: one (4 groups of 2 to 2 channels)"
