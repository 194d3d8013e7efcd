"""Int8: Q/DQ where it was asked for, outputs near the float ones, layers of 8 bits at both ends."""

import itertools
import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from onnxruntime.quantization.calibrate import HistogramCalibrater

from kronexport import agent
from kronexport.errors import KronexportError
from kronexport.precision.quantize import Scheme, quantized, quantized_layer
from kronexport.records import Ranges
from kronexport.verify.outputs import run_onnx

SHAPE = (2, 16, 8, 8)
NOISE = np.random.default_rng(0)
FEEDS = [{"x": NOISE.standard_normal(SHAPE, np.float32)} for _ in range(4)]
NEAR = 0.05
"""Relative L2 of 8 bits over two Convs."""


def chain() -> onnx.ModelProto:
    """A Conv, a Relu, a Transpose of its rows and columns, a Conv in groups."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        chain (float[2, 16, 8, 8] x) => (float[2, 16, 8, 8] y) {
            [first] a = Conv<pads = [1, 1, 1, 1]>(x, first_weight, bias)
            [relu] b = Relu(a)
            [turn] c = Transpose<perm = [0, 1, 3, 2]>(b)
            [second] y = Conv<group = 4>(c, second_weight, bias)
        }"""
    )
    for node in model.graph.node:  # the text form has no dots in names
        node.input[:] = [name.replace("_weight", ".weight") for name in node.input]
    weights = {"first.weight": (16, 16, 3, 3), "second.weight": (16, 4, 1, 1), "bias": (16,)}
    generator = np.random.default_rng(1)
    for name, shape in weights.items():
        values = 0.1 * generator.standard_normal(shape, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.checker.check_model(model, full_check=True)
    return model


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def run(model: onnx.ModelProto, folder: Path) -> np.ndarray:
    onnx.save(model, folder / "model.onnx")
    return np.asarray(run_onnx(folder / "model.onnx", FEEDS[0]["x"])["y"])


@pytest.mark.parametrize("ranges", ["minmax", "entropy", "percentile"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_outputs_are_near_the_float_ones_and_not_equal(ranges: Ranges, *, symmetric: bool, tmp_path: Path) -> None:
    model = chain()
    found = quantized(model, FEEDS, Scheme(symmetric, ranges))
    error = agent.rel_l2(run(found, tmp_path), run(model, tmp_path))
    assert 1e-4 < error < (NEAR if ranges == "minmax" else 4 * NEAR)
    assert operators(model) == ["Conv", "Relu", "Transpose", "Conv"], "the model that was given changed"


def test_histograms_hold_the_activations_of_a_few_samples_at_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And what onnxruntime prints of them is not among what a command prints."""
    real, held = HistogramCalibrater.clear_collected_data, []

    def cleared(calibrater: HistogramCalibrater) -> None:
        held.append(len(calibrater.intermediate_outputs))
        real(calibrater)

    monkeypatch.setattr(HistogramCalibrater, "clear_collected_data", cleared)
    quantized(chain(), [*FEEDS, *FEEDS, FEEDS[0]], Scheme(ranges="percentile"))
    assert held == [3, 3, 3], "of batches of two samples, all nine of them"
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("ranges", ["minmax", "percentile"])
def test_every_feed_counts(ranges: Ranges) -> None:
    """Also a last one that does not fill a part of those that are held at once."""
    feeds = [{"x": feed["x"][:2]} for feed in [*FEEDS, *FEEDS, FEEDS[0]]] + [{"x": 100 * FEEDS[0]["x"]}]
    scales = []
    for given in (feeds[:-1], feeds):
        found = quantized(chain(), given, Scheme(ranges=ranges))
        (first,) = (node for node in found.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "x")
        values = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.graph.initializer}
        scales.append(float(values[first.input[1]]))
    assert scales[1] > 10 * scales[0]


def test_inputs_and_outputs_stay_float_and_all_shapes_are_known() -> None:
    found = quantized(chain(), FEEDS, Scheme())
    kinds = {value.type.tensor_type.elem_type for value in (*found.graph.input, *found.graph.output)}
    assert kinds == {onnx.TensorProto.FLOAT}
    known = {value.name for value in (*found.graph.value_info, *found.graph.output)}
    assert all(node.output[0] in known for node in found.graph.node)


def test_weights_are_symmetric_per_channel_and_activations_as_the_target_wants_them() -> None:
    """TensorRT: no zero point anywhere; CPUs: unsigned activations."""
    for symmetric, activation in ((True, np.int8), (False, np.uint8)):
        found = quantized(chain(), FEEDS, Scheme(symmetric))
        values = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.graph.initializer}
        zeros = [values[node.input[2]] for node in found.graph.node if node.op_type == "QuantizeLinear"]
        assert {zero.dtype for zero in zeros} == {np.dtype(activation)}
        assert all((zero == 0).all() for zero in zeros) is symmetric
        weights = [node for node in found.graph.node if ".weight" in node.input[0]]
        assert len(weights) == (4 if symmetric else 2), "TensorRT wants a pair, CPUs a constant of 8 bits"
        assert all(values[node.input[1]].shape == (16,) and not values[node.input[2]].any() for node in weights)


def test_no_sum_of_products_saturates_on_a_cpu_without_vnni(tmp_path: Path) -> None:
    """All inputs at the top of their range, all weights at the ends of theirs: as far as 8 bits can go."""
    model = chain()
    extreme = numpy_helper.from_array(np.ones((16, 16, 3, 3), np.float32), "first.weight")
    (place,) = (index for index, one in enumerate(model.graph.initializer) if one.name == "first.weight")
    model.graph.initializer[place].CopyFrom(extreme)
    top = [{"x": np.ones(SHAPE, np.float32)}]
    onnx.save(quantized(model, top, Scheme()), tmp_path / "model.onnx")
    exact = run_onnx(tmp_path / "model.onnx", top[0]["x"])["y"]
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (computed,) = session.run(None, top[0])
    assert agent.rel_l2(np.asarray(computed), np.asarray(exact)) < 0.01  # rounding alone; 8 bits: 0.49 with AVX2
    weights = {
        name: numpy_helper.to_array(one)
        for one in onnx.load(tmp_path / "model.onnx").graph.initializer
        if "weight_quantized" in (name := one.name)
    }
    assert len(weights) == 2
    assert {int(np.abs(values.astype(int)).max()) for values in weights.values()} == {64}


def test_nodes_that_are_named_stay_as_they_are() -> None:
    """The Conv reads float values and a float weight."""
    found = quantized(chain(), FEEDS, Scheme(), ["second"])
    (second,) = (node for node in found.graph.node if node.name == "second")
    assert second.input[1] == "second.weight"
    assert "first.weight" not in {name for node in found.graph.node if node.op_type == "Conv" for name in node.input}


@pytest.mark.parametrize("kept", [[], ["first"]])
def test_a_pool_is_in_int8_where_what_it_reads_is(kept: list[str], tmp_path: Path) -> None:
    """It reads float behind a Conv in float, and what it gives is rounded afterwards, which comes to the same."""
    model = chain()
    (turn,) = (node for node in model.graph.node if node.name == "turn")
    turn.CopyFrom(onnx.helper.make_node("MaxPool", ["b"], ["c"], "pool", kernel_shape=[1, 1]))
    found = quantized(model, FEEDS, Scheme(), kept)
    makers = {output: node for node in found.graph.node for output in node.output}
    (pool,) = (node for node in found.graph.node if node.op_type == "MaxPool")
    assert makers[pool.input[0]].op_type == ("Relu" if kept else "DequantizeLinear")
    assert agent.rel_l2(run(found, tmp_path), run(model, tmp_path)) < NEAR


@pytest.mark.parametrize("kept", [[], ["first"], ["second"], ["first", "second"]], ids=str)
def test_a_layer_has_8_bits_at_both_ends(kept: list[str], tmp_path: Path) -> None:
    """Whichever of its Convs is in float; names of input and output stay."""
    layer = quantized_layer(chain(), kept)
    onnx.checker.check_model(layer, full_check=True)
    ends = [(value.name, value.type.tensor_type.elem_type) for value in (layer.graph.input[0], layer.graph.output[0])]
    assert ends == [("x", onnx.TensorProto.UINT8), ("y", onnx.TensorProto.UINT8)]
    onnx.save(layer, tmp_path / "layer.onnx")
    for runtime in ("onnxruntime", "openvino"):
        session = agent.open_session(runtime, str(tmp_path / "layer.onnx"), 1)
        output = session.run({"x": NOISE.integers(0, 255, SHAPE, np.uint8)})["y"]
        assert output.dtype == np.uint8
        assert len(np.unique(output)) > 9


def test_a_layer_in_int8_has_nothing_but_what_it_computes() -> None:
    """No Q at its input and no DQ at its output: neighbours have these."""
    found = operators(quantized_layer(chain()))
    assert found[-1] == "QuantizeLinear"
    pairs = list(itertools.pairwise(found))
    assert ("QuantizeLinear", "QuantizeLinear") not in pairs
    assert found.count("QuantizeLinear") == 3


def test_what_cannot_be_quantized_is_an_error_of_ours() -> None:
    model = chain()
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(KronexportError, match="int8: the model cannot be quantized"):
        quantized(model, FEEDS, Scheme())


def test_logging_is_as_before() -> None:
    quantized(chain(), FEEDS, Scheme())
    assert logging.root.manager.disable == logging.NOTSET


ODD = """<ir_version: 8, opset_import: ["" : 17]>
odd (float[2, 16, 8, 8] x) => ({results}) {{
    [first] a = Conv(x, weight)
    {body}
    [last] y = Conv({last}, weight)
}}"""
ONE = "float[2, 16, 8, 8] y"
BETA = """[m] m = GlobalAveragePool(a) [f] f = Flatten(m) [g] g = Gemm<beta = 3.0>(f, square, bias)
    s = Constant<value_ints = [2, 16, 1, 1]>() [r] r = Reshape(g, s) [add] b = Add(a, r)"""


@pytest.mark.parametrize(
    ("results", "body", "last"),
    [
        (f"{ONE}, float[2, 16, 8, 8] a", "[relu] b = Relu(a)", "b"),
        (ONE, "[clip] b = Clip(a, low)", "b"),
        (ONE, "[clip] b = Clip(a, no, low)", "b"),
        (ONE, "[up] b = ConvTranspose<group = 2>(a, half, bias)", "b"),
        (
            ONE,
            BETA,
            "b",
        ),
    ],
)
@pytest.mark.parametrize("symmetric", [False, True])
def test_what_the_quantizer_does_not_understand_stays_what_it_is(
    results: str, body: str, last: str, *, symmetric: bool, tmp_path: Path
) -> None:
    """A result that a Relu reads too, bounds that cut 0 off, a bias in groups, a bias that is multiplied."""
    model = onnx.parser.parse_model(ODD.format(results=results, body=body, last=last))
    generator = np.random.default_rng(1)
    values = {
        "weight": 0.2 * generator.standard_normal((16, 16, 1, 1)),
        "half": 0.2 * generator.standard_normal((16, 8, 1, 1)),
        "square": 0.2 * generator.standard_normal((16, 16)),
        "bias": generator.standard_normal(16),
        "low": np.array(0.5),
    }
    used = {name for node in model.graph.node for name in node.input}
    for name in used & set(values):
        model.graph.initializer.append(numpy_helper.from_array(values[name].astype(np.float32), name))
    for node in model.graph.node:
        node.input[:] = ["" if name == "no" else name for name in node.input]
    found = quantized(model, FEEDS, Scheme(symmetric))
    outputs = []
    for one in (model, found):
        onnx.save(one, tmp_path / "model.onnx")
        outputs.append(run_onnx(tmp_path / "model.onnx", FEEDS[0]["x"]))
    for name in outputs[0]:
        assert agent.rel_l2(np.asarray(outputs[1][name]), np.asarray(outputs[0][name])) < 2 * NEAR, name
    assert operators(found).count("QuantizeLinear") > 1
