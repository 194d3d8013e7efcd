"""Over 2,000 random networks of all methods: every form that is generated computes the convolution by to_dense()."""

import random
from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kronexport.lower.emit import Emitter
from kronexport.lower.forms import Form, every_form, generate_forms
from tests.lower.test_kronecker import TOLERANCE, example, oracle, relative_l2
from tests.strategies import METHODS, Layer, layers

NETWORKS = {"gkpd": 1200, "sekron3": 160, "sekron4": 60, "cp": 150, "tucker2": 150, "tt": 150, "tr": 150}
"""Of each method: fewer where each has more forms, merged ones among them."""
MORE = 6
"""Of those forms that are left out for their MACs; a layer of a few channels has hardly any others."""


def computed(form: Form, layer: Layer, x: NDArray[np.float32], bias: NDArray[np.float32]) -> torch.Tensor:
    """The nodes of a form, run by torch: a session for each form would take minutes."""
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([None, *layer.input_shape[1:]]))
    emitter = Emitter(form, layer.network, "layer")
    output = emitter.emit(value, None, bias)
    values = {value: torch.from_numpy(x)}
    for constant in emitter.tape.initializers:
        assert constant.const_value is not None
        values[constant] = torch.from_numpy(constant.const_value.numpy())
    for node in emitter.tape.nodes:
        inputs = [values[given] for given in node.inputs if given is not None]
        values[node.outputs[0]] = OPERATORS[node.op_type](node, *inputs)
    return values[output]


def conv(node: ir.Node, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    top, left, bottom, right = node.attributes["pads"].as_ints()
    strides, dilations = node.attributes["strides"].as_ints(), node.attributes["dilations"].as_ints()
    padded = F.pad(x, (left, right, top, bottom))
    return F.conv2d(padded, weight, bias, tuple(strides), 0, tuple(dilations), node.attributes["group"].as_int())


OPERATORS: dict[str, Callable[..., torch.Tensor]] = {
    "Add": lambda _node, x, y: x + y,
    "Conv": conv,
    "Reshape": lambda _node, x, shape: x.reshape(shape.tolist()),
    "Transpose": lambda node, x: x.permute(*node.attributes["perm"].as_ints()),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Thousands of small Convs take longer on more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("method", METHODS)
def test_every_form_of_random_networks_equals_to_dense(method: str) -> None:
    """Relative L2 error at most 1e-5 against float64, with stride, unequal padding, dilation, groups and batches."""

    @settings(max_examples=NETWORKS[method], deadline=None)
    @given(layers([method]), st.randoms(use_true_random=False))
    def check(layer: Layer, chance: random.Random) -> None:
        problem = layer.network.structure, layer.geometry, layer.input_size
        forms = list(generate_forms(*problem))
        names = {form.name for form in forms}
        others = [form for form in every_form(*problem) if form.name not in names]
        forms += chance.sample(others, min(MORE, len(others)))
        x, bias = example(layer)
        reference = oracle(layer, x, bias)
        for form in forms:
            output = computed(form, layer, x, bias)
            assert output.shape == reference.shape
            assert relative_l2(output.numpy(), reference) <= TOLERANCE, form.name

    check()
