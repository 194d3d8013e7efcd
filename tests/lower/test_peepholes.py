"""Peepholes after lowering: chains of layers compute what they did, and what runtimes fuse stands together."""

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx_ir.passes.common import ShapeInferencePass

from kronexport.export.onnx_export import export_onnx
from kronexport.export.operator import DOMAIN, METHOD_KEY, OP_TYPE, SITE_KEY, VERSION, operator_attributes
from kronexport.export.replace import with_networks
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.factorize.network import KroneckerNetwork
from kronexport.lower.cleanup import clean_up
from kronexport.lower.forms import generate_forms
from kronexport.lower.kronecker import LowerKronecker
from kronexport.lower.lowering import lower
from kronexport.lower.macs import count_macs
from kronexport.lower.peepholes import peephole
from kronexport.lower.standard import check_standard
from kronexport.records import ConvGeometry, FactorShape, InputSpec, Structure
from sample_models.registry import load_sample
from tests.lower.small_graphs import assert_same_outputs, floats, graph, outputs, shuffle
from tests.strategies import METHODS, random_network, structures

SIZE = 5, 4
JOINS = ("nothing", "Relu", "Clip", "norm", "scale", "depthwise", "pool", "dense")


class Chain:
    """Writes layers one behind the other; each keeps the image size, so that any two may be added."""

    def __init__(self, channels: int) -> None:
        self.tape = ir.tape.Tape()
        self.channels = channels
        self.input = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, channels, *SIZE]))
        self.value = self.input
        self.forms: dict[str, str] = {}
        self.generator = np.random.default_rng(0)

    def layer(self, network: KroneckerNetwork, pick: int) -> None:
        """A KroneckerConv node in one of its forms."""
        structure, site = network.structure, f"site{len(self.forms)}"
        kernel = structure.weight_shape[2:]
        top, left = (kernel[0] - 1) // 2, (kernel[1] - 1) // 2
        geometry = ConvGeometry(kernel, (1, 1), (top, left, kernel[0] - 1 - top, kernel[1] - 1 - left))
        forms = generate_forms(structure, geometry, SIZE)
        self.forms[site] = forms[pick % len(forms)].name
        self.channels = structure.weight_shape[0]
        scale = 1 / np.sqrt(np.prod(structure.weight_shape[1:])).astype(np.float32)
        factors = [network.factors[0] * scale, *network.factors[1:]]
        constants = [self.noise(self.channels), *map(self.constant, factors)]
        metadata = {SITE_KEY: site, METHOD_KEY: structure.method}
        self.value = self.tape.op(
            OP_TYPE,
            [self.value, *constants],
            operator_attributes(structure, geometry),
            domain=DOMAIN,
            version=VERSION,
            metadata_props=metadata,
        )
        self._is_image()

    def join(self, kind: str) -> None:
        """What stands between layers; ``depthwise`` and ``dense`` are Convs that are not factorized."""
        n = self.channels
        if kind == "Clip":
            low, high = self.constant(np.array(-1, np.float32)), self.constant(np.array(2, np.float32))
            self.op("Clip", low, high)
        elif kind == "norm":
            variance = self.constant(self.generator.uniform(0.5, 2, n).astype(np.float32))
            self.op("BatchNormalization", self.noise(n), self.noise(n), self.noise(n), variance)
        elif kind == "scale":
            self.op("Mul", self.noise(n, 1, 1))
        elif kind == "depthwise":
            self.op("Conv", self.noise(n, 1, 3, 3), self.noise(n), group=n, pads=[1, 1, 1, 1])
        elif kind == "pool":
            self.op("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        elif kind == "dense":
            self.op("Conv", self.noise(n, n, 1, 1))
        elif kind == "Relu":
            self.op("Relu")

    def op(self, op_type: str, *others: ir.Value, **attributes: int | list[int]) -> None:
        self.value = self.tape.op(op_type, [self.value, *others], attributes)
        self._is_image()

    def _is_image(self) -> None:
        self.value.shape, self.value.type = ir.Shape([1, self.channels, *SIZE]), self.input.type

    def noise(self, *shape: int) -> ir.Value:
        return self.constant(self.generator.standard_normal(shape, np.float32))

    def constant(self, array: NDArray[np.float32]) -> ir.Value:
        return self.tape.initializer(ir.tensor(array), f"constant{len(self.tape.initializers)}")

    def lowered(self) -> ir.Model:
        """The model in the forms chosen, cleaned up, without a peephole."""
        # reads channels as they are, so that not all can be put into any order; of the same conditioning as its input,
        # where Softmax makes a difference of 1e-4 in a probability of one of 1e-4 in a sum of hundreds
        self.op("LogSoftmax", axis=1)
        self.value.name = "y"
        graph = ir.Graph(
            [self.input],
            [self.value],
            nodes=self.tape.nodes,
            initializers=self.tape.initializers,
            opset_imports={"": 18, DOMAIN: VERSION},
            name="chain",
        )
        model = ir.Model(graph, ir_version=8)
        LowerKronecker(self.forms)(model)
        ShapeInferencePass()(model)
        return clean_up(model)


def turned(structure: Structure) -> Structure:
    """With as many channels as ``structure`` has filters and the other way round, factor by factor."""
    factors = tuple(
        FactorShape(factor.rank_axes, factor.c, factor.f, factor.h, factor.w) for factor in structure.factors
    )
    return Structure(structure.method, structure.ranks, factors)


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    """Blocks of two layers, there and back, some with a shortcut around them."""
    structure = draw(structures(rank=2, methods=draw(st.sampled_from((("gkpd",), METHODS)))))
    chain = Chain(structure.weight_shape[1])
    for _ in range(draw(st.integers(1, 3))):
        shortcut = chain.value
        for way in (structure, turned(structure)):
            seed = 100 * len(chain.forms) + draw(st.integers(0, 99))  # no two layers share a weight
            chain.layer(random_network(way, seed), draw(st.integers(0, 99)))
            chain.join(draw(st.sampled_from(JOINS)))
        if draw(st.booleans()):
            chain.op("Add", shortcut)
        chain.join(draw(st.sampled_from(JOINS)))
    return chain


@settings(max_examples=150, deadline=None)
@given(chains())
def test_chains_compute_what_they_did(chain: Chain) -> None:
    """With no more Transposes, MACs and weights than before, and standard operators only."""
    before = chain.lowered()
    after = peephole(before.clone())
    check_standard(after)
    assert_same_outputs(after, outputs(before))
    for cost in (transposes, count_macs, weights):
        assert cost(after) <= cost(before)


def test_convs_that_a_shuffle_stood_between_become_one() -> None:
    """Two 1x1 Convs that widen between, the shuffle gone into a weight."""
    body = f"a = Conv(x, v) {shuffle('a', 's', (4, 2))} y = Conv(s, w)"
    constants = {"v": floats(8, 3, 1, 1), "w": floats(4, 8, 1, 1)}
    model = graph("float[1,3,3,3] x => float[1,4,3,3] y", body, constants)
    wanted = outputs(model)
    improved = peephole(model)
    assert Counter(node.op_type for node in improved.graph) == {"Conv": 1}
    assert_same_outputs(improved, wanted)


def transposes(model: ir.Model) -> int:
    return Counter(node.op_type for node in model.graph)["Transpose"]


def weights(model: ir.Model) -> int:
    """Elements of all floating-point constants."""
    constants = [value.const_value for value in model.graph.initializers.values()]
    return sum(tensor.size for tensor in constants if tensor is not None and tensor.dtype.is_floating_point())


def factorized_sample(name: str, outer: int) -> tuple[torch.nn.Module, list[str]]:
    """A sample with random factors, the first [outer, outer, 1, 1], at all convs that this divides; and their names."""
    model = load_sample(name).factory()
    networks: dict[str, KroneckerNetwork] = {}
    for site, layer in model.named_modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.groups == 1:
            f, c, h, w = layer.weight.shape
            if f % outer == c % outer == 0 and min(f, c) > outer:
                structure = gkpd_structure((outer, outer, 1, 1), (f // outer, c // outer, h, w), 1)
                networks[site] = random_network(structure, len(networks))
    return with_networks(model, networks).eval(), list(networks)


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def activations_behind(model: ir.Model, operator: str) -> int:
    """Activations whose input an ``operator`` makes."""
    sources = [node.inputs[0] for node in model.graph if node.op_type in ("Relu", "Clip")]
    producers = [None if source is None else source.producer() for source in sources]
    return sum(producer is not None and producer.op_type == operator for producer in producers)


SAMPLES = {"resnet20": (8, 32), "mobilenetv2": (8, 32), "seresnet50": (16, 32), "edsr8": (16, 8)}
"""With the first factor's channels and the image size."""


@pytest.mark.parametrize("name", SAMPLES)
def test_no_norm_is_left_and_activations_stand_behind_their_convs(name: str) -> None:
    """In grouped forms as in the dense network, though shuffles stood between; those behind an Add stay there."""
    outer, size = SAMPLES[name]
    spec = InputSpec("x", (1, 3, size, size))
    dense = lower(export_onnx(load_sample(name).factory(), spec), {}, 17)
    assert operators(dense)["BatchNormalization"] == 0
    model, sites = factorized_sample(name, outer)
    exported = export_onnx(model, spec)
    for form in ("grouped-2-1", "grouped-1-2"):
        lowered = lower(exported, dict.fromkeys(sites, form), 17)
        assert operators(lowered)["BatchNormalization"] == 0
        assert activations_behind(lowered, "Conv") == activations_behind(dense, "Conv")


@pytest.mark.parametrize(("forms", "left"), [(("grouped-2-1", "grouped-1-2"), 18), (("grouped-2-1",) * 2, 36)])
def test_shuffles_of_neighbouring_layers_cancel(forms: tuple[str, str], left: int) -> None:
    """ResNet-20 has 18 factorized layers with two Transposes each, in pairs with a Relu between.

    If the first of a pair ends in the shuffle that the second begins with, both are gone. If all are alike, none is:
    each shuffle stands between two Convs whose groups cross.
    """
    model, sites = factorized_sample("resnet20", 8)
    chosen = {site: forms[site.endswith("conv2")] for site in sites}
    exported = export_onnx(model, InputSpec("x", (1, 3, 32, 32)))
    assert transposes(lower(exported, chosen, 17)) == left
