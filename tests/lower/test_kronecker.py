"""Every form of every structure computes the convolution by to_dense()."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kronexport.errors import UserInputError
from kronexport.export.operator import (
    DOMAIN,
    METHOD_KEY,
    OP_TYPE,
    SITE_KEY,
    VERSION,
    attach_functions,
    operator_attributes,
)
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.lower.forms import generate_forms
from kronexport.lower.kronecker import LowerKronecker
from kronexport.lower.standard import check_standard
from kronexport.records import ConvGeometry
from tests.strategies import Layer, layers, random_network

TOLERANCE = 1e-5


def model_of(layer: Layer, bias: NDArray[np.float32], norm: dict[str, NDArray[np.float32]] | None = None) -> ir.Model:
    """One KroneckerConv node, with a BatchNormalization behind it if ``norm`` is given."""
    structure = layer.network.structure
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(layer.input_shape))
    tape = ir.tape.Tape()
    constants = [tape.initializer(ir.tensor(bias), "b")]
    constants += [tape.initializer(ir.tensor(factor), f"a{k}") for k, factor in enumerate(layer.network.factors)]
    y = tape.op(
        OP_TYPE,
        [x, *constants],
        operator_attributes(structure, layer.geometry),
        domain=DOMAIN,
        version=VERSION,
        metadata_props={SITE_KEY: "layer", METHOD_KEY: structure.method},
    )
    if norm is not None:
        parameters = [tape.initializer(ir.tensor(value), f"norm.{name}") for name, value in norm.items()]
        y = tape.op("BatchNormalization", [y, *parameters], {"epsilon": 1e-5})
    output = layer.geometry.output_size(layer.input_size)
    y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape([layer.batch, len(bias), *output])
    graph = ir.Graph(
        [x], [y], nodes=tape.nodes, initializers=tape.initializers, opset_imports={"": 18, DOMAIN: VERSION}, name="g"
    )
    return ir.Model(graph, ir_version=8)


def run(model: ir.Model, x: NDArray[np.float32]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    output: NDArray[np.float32] = session.run(None, {"x": x})[0]
    return output


def oracle(layer: Layer, x: NDArray[np.float32], bias: NDArray[np.float32]) -> torch.Tensor:
    """Convolution by to_dense(), in float64."""
    exact = type(layer.network)(
        layer.network.structure, tuple(factor.astype(np.float64) for factor in layer.network.factors)
    )
    top, left, bottom, right = layer.geometry.pads
    padded = F.pad(torch.from_numpy(x).double(), (left, right, top, bottom))
    weight = torch.from_numpy(exact.to_dense())
    shift = torch.from_numpy(bias).double()
    geometry = layer.geometry
    return F.conv2d(padded, weight, shift, geometry.stride, 0, geometry.dilation, geometry.group)


def example(layer: Layer) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """An input and a bias."""
    filters = layer.network.structure.weight_shape[0]
    generator = np.random.default_rng(0)
    x = generator.standard_normal(layer.input_shape).astype(np.float32)
    return x, generator.standard_normal(filters).astype(np.float32)


def relative_l2(y: NDArray[np.float32], reference: torch.Tensor) -> float:
    difference = torch.linalg.vector_norm(torch.from_numpy(y).double() - reference)
    return float(difference / torch.linalg.vector_norm(reference).clamp_min(1e-30))


@settings(max_examples=150, deadline=None)
@given(layers(), st.data())
def test_a_form_equals_the_dense_convolution(layer: Layer, data: st.DataObject) -> None:
    """As ONNX Runtime runs it: relative L2 error at most 1e-5 against float64. All forms: test_every_form.py."""
    form = data.draw(st.sampled_from(generate_forms(layer.network.structure, layer.geometry, layer.input_size)))
    x, bias = example(layer)
    model = model_of(layer, bias)
    LowerKronecker({"layer": form.name})(model)
    assert relative_l2(run(model, x), oracle(layer, x, bias)) <= TOLERANCE


@settings(max_examples=40, deadline=None)
@given(layers())
def test_batchnorm_behind_a_layer_is_folded_or_kept(layer: Layer) -> None:
    """A BatchNormalization is absorbed exactly by each form that can, and kept by the others."""
    x, bias = example(layer)
    filters = len(bias)
    generator = np.random.default_rng(1)
    norm = {name: generator.standard_normal(filters).astype(np.float32) for name in ("gamma", "beta", "mean")}
    norm["variance"] = generator.uniform(0.5, 2, filters).astype(np.float32)
    gamma, beta, mean, variance = (
        torch.from_numpy(norm[key]).double() for key in ("gamma", "beta", "mean", "variance")
    )
    reference = F.batch_norm(oracle(layer, x, bias), mean, variance, gamma, beta, eps=1e-5)
    for form in generate_forms(layer.network.structure, layer.geometry, layer.input_size)[:6]:
        model = model_of(layer, bias, norm)
        LowerKronecker({"layer": form.name})(model)
        kept = [node for node in model.graph if node.op_type == "BatchNormalization"]
        assert (not kept) == form.absorbs_affine
        assert relative_l2(run(model, x), reference) <= TOLERANCE, form.name


@settings(max_examples=40, deadline=None)
@given(layers())
def test_the_unlowered_model_runs_by_its_local_function(layer: Layer) -> None:
    """With its meaning attached, a KroneckerConv node runs in ONNX Runtime and equals the dense convolution."""
    x, bias = example(layer)
    model = model_of(layer, bias)
    attach_functions(model)
    assert relative_l2(run(model, x), oracle(layer, x, bias)) <= TOLERANCE


GEOMETRY = ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1))


def gkpd_layer() -> Layer:
    structure = gkpd_structure((4, 2, 1, 1), (3, 5, 3, 3), 2)
    return Layer(random_network(structure, 0), GEOMETRY, 1, (6, 6))


def test_lowered_models_hold_standard_operators_only() -> None:
    """No node of the project's own domain, and nothing that onnx.checker refuses, is left after lowering."""
    for form in generate_forms(gkpd_layer().network.structure, GEOMETRY, (6, 6)):
        model = model_of(gkpd_layer(), np.zeros(12, np.float32))
        LowerKronecker({"layer": form.name})(model)
        check_standard(model)
        assert DOMAIN not in model.opset_imports


def test_an_unknown_form_is_refused_by_name() -> None:
    """The error names the site, the form asked for and the forms there are."""
    model = model_of(gkpd_layer(), np.zeros(12, np.float32))
    with pytest.raises(UserInputError, match=r"layer: no lowering 'diagonal'.*grouped-1-2"):
        LowerKronecker({"layer": "diagonal"})(model)


def test_constants_and_nodes_carry_the_name_of_the_site() -> None:
    """What the runtime reports can be traced back to the module."""
    model = model_of(gkpd_layer(), np.zeros(12, np.float32))
    LowerKronecker({"layer": "grouped-2-1"})(model)
    assert all(str(node.name).startswith("layer/") for node in model.graph)
    lowered = [name for name in model.graph.initializers if "/" in name]
    assert lowered
    assert all(name.startswith("layer/") for name in lowered)
