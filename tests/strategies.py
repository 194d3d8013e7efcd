"""Hypothesis strategies for the algebra: structures of every method, geometries, and layers made of both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from kronexport.factorize.cp import cp_structure
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.factorize.network import KroneckerNetwork
from kronexport.factorize.sekron import sekron_structure
from kronexport.factorize.tensor_ring import tensor_ring_structure
from kronexport.factorize.tensor_train import tensor_train_structure
from kronexport.factorize.tucker import tucker2_structure, tucker_structure
from kronexport.records import ConvGeometry, FactorShape, Pair, Structure

RANK_AXES = {
    "gkpd": ("a", "a"),
    "sekron3": ("a", "ab", "ab"),
    "sekron4": ("a", "ab", "abc", "abc"),
    "cp": ("a", "a", "a"),
    "tucker2": ("a", "b", "ab"),
    "tt": ("a", "ab", "b"),
    "tr": ("ca", "ab", "bc"),
}
"""Rank axes of each factor; every factor here may also carry channels and a kernel, which is the general case."""

METHODS = tuple(sorted(RANK_AXES))

METHOD_STRUCTURES = (
    gkpd_structure((3, 2, 3, 1), (2, 3, 1, 3), 3),
    sekron_structure([(3, 1, 1, 1), (2, 3, 3, 1), (1, 2, 1, 3)], (2, 3)),
    sekron_structure([(3, 1, 1, 1), (2, 1, 3, 1), (1, 2, 1, 3), (1, 3, 1, 1)], (2, 2, 2)),
    cp_structure([(6, 1, 1, 1), (1, 6, 1, 1), (1, 1, 3, 1), (1, 1, 1, 3)], (3,)),
    cp_structure([(6, 1, 1, 1), (1, 6, 1, 1), (1, 1, 3, 3)], (3,)),
    tucker_structure([(6, 1, 1, 1), (1, 6, 1, 1), (1, 1, 3, 1), (1, 1, 1, 3), (1, 1, 1, 1)], (3, 2, 2, 2)),
    tucker2_structure([(6, 1, 1, 1), (1, 6, 1, 1), (1, 1, 3, 3)], (3, 2)),
    tensor_train_structure([(6, 1, 1, 1), (1, 1, 3, 1), (1, 1, 1, 3), (1, 6, 1, 1)], (2, 3, 2)),
    tensor_train_structure([(6, 1, 1, 1), (1, 1, 3, 3), (1, 6, 1, 1)], (2, 3)),
    tensor_ring_structure([(6, 1, 1, 1), (1, 6, 1, 1), (1, 1, 3, 1), (1, 1, 1, 3)], (2, 2, 2, 2)),
    tensor_ring_structure([(6, 1, 1, 1), (1, 1, 3, 3), (1, 6, 1, 1)], (2, 3, 2)),
)
"""Each method for a weight [6, 6, 3, 3], with the factors that are usual for it."""


@dataclass(frozen=True)
class Layer:
    """A network, how it walks over its input, and the size of that input."""

    network: KroneckerNetwork
    geometry: ConvGeometry
    batch: int
    input_size: Pair

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """[N, C, H, W] with the channels of all groups."""
        channels = self.network.structure.weight_shape[1] * self.geometry.group
        return self.batch, channels, *self.input_size


def factor_shapes(rank_axes: str, channels: int, kernel: int) -> st.SearchStrategy[FactorShape]:
    """One factor with at most ``channels`` filters and channels and a kernel of at most ``kernel``."""
    size = st.integers(1, channels)
    width = st.integers(1, kernel)
    return st.builds(FactorShape, st.just(rank_axes), size, size, width, width)


@st.composite
def structures(draw: st.DrawFn, channels: int = 4, rank: int = 3, methods: Sequence[str] = METHODS) -> Structure:
    """A structure of one of ``methods``, kernel at most 7, odd and prime channel counts included."""
    method = draw(st.sampled_from(methods))
    axes = RANK_AXES[method]
    kernel = 7 if len(axes) == 2 else 3
    factors: list[FactorShape] = []
    for letters in axes:
        room = kernel // max(1, math.prod(max(factor.h, factor.w) for factor in factors))
        factors.append(draw(factor_shapes(letters, channels, max(1, room))))
    count = len(set("".join(axes)))
    ranks = draw(st.lists(st.integers(1, rank), min_size=count, max_size=count))
    return Structure(method, tuple(ranks), tuple(factors))


@st.composite
def layers(draw: st.DrawFn, methods: Sequence[str] = METHODS) -> Layer:
    """A layer with stride, unequal padding, dilation and groups whose output is not empty."""
    group = draw(st.sampled_from((1, 2, 4)))
    structure = with_groups(draw(structures(methods=methods)), group)
    kernel = structure.weight_shape[2:]
    stride, dilation = draw(_pairs(3)), draw(_pairs(2))
    pads = draw(st.tuples(*[st.integers(0, 3)] * 4))
    geometry = ConvGeometry(kernel, stride, pads, dilation, group)
    least = [max(1, dilation[axis] * (kernel[axis] - 1) + 1 - pads[axis] - pads[axis + 2]) for axis in (0, 1)]
    size = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    network = random_network(structure, draw(st.integers(0, 2**32 - 1)))
    return Layer(network, geometry, draw(st.integers(1, 2)), (least[0] + size[0], least[1] + size[1]))


def with_groups(structure: Structure, group: int) -> Structure:
    """``structure`` with ``group`` times the filters in its first factor: it suits a conv of that many groups."""
    first, *others = structure.factors
    return replace(structure, factors=(replace(first, f=group * first.f), *others))


def random_network(structure: Structure, seed: int) -> KroneckerNetwork:
    """Standard normal factors, float32."""
    generator = np.random.default_rng(seed)
    shapes = [structure.factor_shape(k) for k in range(len(structure.factors))]
    return KroneckerNetwork(structure, tuple(generator.standard_normal(shape).astype(np.float32) for shape in shapes))


def _pairs(most: int) -> st.SearchStrategy[Pair]:
    return st.tuples(st.integers(1, most), st.integers(1, most))
