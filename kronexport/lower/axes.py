"""The axis model: convolution by a Kronecker network as a chain of contractions (docs/lowering.md).

The image starts with the axes ``n g c1 .. cS h w`` and ends with ``n g f1 .. fS h w``: g are the layer's groups, f1 the
first factor's filters in each. Factors are contracted one at a time, in any order; contracting factor k is a
convolution by A_k whose dilation is the layer's times the kernel sizes of all factors after k. At that step each axis
that is not spatial plays one of four roles:

    contracted   c_k, and rank axes made before and not needed later     input channels
    produced     f_k, and rank axes first seen here and needed later     output channels
    diagonal     rank axes of A_k made before and needed later, g of A_1 groups, weights differ
    spectator    every other axis alive                                  placed: see placement.py

A rank axis that only this factor has is summed into its weight beforehand. Axes of size 1 do not exist.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from kronexport.records import ConvGeometry, Pads, Pair, Structure

BATCH_AXIS = "n"
GROUP_AXIS = "g"


def axis_sizes(structure: Structure, group: int) -> dict[str, int]:
    """Size of every axis but the batch: ``g f1 c1 ... fS cS`` and the rank axes by their letter.

    Rank letters are prefixed by ``r`` so that rank axis ``c`` is not mistaken for a channel axis. ``f1`` is the first
    factor's filters within a group, which are ``group`` times fewer than it has.
    """
    sizes = {rank_axis(letter): size for letter, size in structure.rank_sizes.items()}
    for k, factor in enumerate(structure.factors, 1):
        sizes[f"f{k}"], sizes[f"c{k}"] = factor.f, factor.c
    return sizes | {GROUP_AXIS: group, "f1": sizes["f1"] // group}


def factor_axes(structure: Structure, k: int) -> tuple[str, ...]:
    """Axes of factor ``k`` (from 0) before its h and w: the first one's filters are g, then f1."""
    ranks = tuple(rank_axis(letter) for letter in structure.factors[k].rank_axes)
    groups = (GROUP_AXIS,) if k == 0 else ()
    return (*ranks, *groups, f"f{k + 1}", f"c{k + 1}")


def sized_axes(structure: Structure, group: int) -> list[set[str]]:
    """Of each factor the axes larger than 1, h and w left out."""
    sizes = axis_sizes(structure, group)
    return [{axis for axis in factor_axes(structure, k) if sizes[axis] > 1} for k in range(len(structure.factors))]


def rank_axis(letter: str) -> str:
    """The axis of a rank letter."""
    return f"r{letter}"


def natural_axes(structure: Structure, group: int, letter: str) -> tuple[str, ...]:
    """``n g`` and the ``c`` or ``f`` axes in natural order, those of size 1 left out."""
    sizes = axis_sizes(structure, group)
    axes = (GROUP_AXIS, *(f"{letter}{k}" for k in range(1, len(structure.factors) + 1)))
    return (BATCH_AXIS, *(axis for axis in axes if sizes[axis] > 1))


@dataclass(frozen=True, slots=True)
class Roles:
    """What each axis is to one step; its image has those of all roles but produced.

    ``flat``: the step works within each row of the image, since its kernel has height 1 and it neither strides nor
    pads along H. Rows of other images may then stand below.
    """

    contracted: frozenset[str]
    produced: frozenset[str]
    diagonal: frozenset[str]
    spectators: frozenset[str]
    flat: bool


@dataclass(frozen=True, slots=True)
class Contraction:
    """One step: factor ``factor`` (from 0) applied to an image of ``input_size`` with the axes that ``roles`` says."""

    factor: int
    roles: Roles
    geometry: ConvGeometry
    input_size: Pair

    @property
    def output_size(self) -> Pair:
        return self.geometry.output_size(self.input_size)


def contractions(
    structure: Structure, geometry: ConvGeometry, input_size: Pair, order: tuple[int, ...]
) -> tuple[Contraction, ...]:
    """The steps of contracting the factors in ``order`` (indices from 0), image size tracked along.

    Args:
        structure: the network; its kernel is ``geometry.kernel``, its first factor's f a multiple of the groups.
        geometry: of the whole layer.
        input_size: (height, width) of the layer's input.
        order: a permutation of the factor indices.
    """
    axes_of = sized_axes(structure, geometry.group)
    alive = set(natural_axes(structure, geometry.group, "c")) - {BATCH_AXIS}
    outputs = set(natural_axes(structure, geometry.group, "f"))
    geometries = _step_geometries(structure, geometry, order)
    steps: list[Contraction] = []
    for position, k in enumerate(order):
        needed = outputs.union(*(axes_of[other] for other in order[position + 1 :]))
        made, new = axes_of[k] & alive, axes_of[k] - alive
        roles = Roles(
            contracted=frozenset(made - needed),
            produced=frozenset(new & needed),
            diagonal=frozenset(made & needed),
            spectators=frozenset(alive - made),
            flat=_is_flat(geometries[position]),
        )
        steps.append(Contraction(k, roles, geometries[position], steps[-1].output_size if steps else input_size))
        alive = (alive - roles.contracted) | roles.produced
    return tuple(steps)


def orders(structure: Structure) -> Iterator[tuple[int, ...]]:
    """Every contraction order; all are exact."""
    return itertools.permutations(range(len(structure.factors)))


def contraction_macs(step: Contraction, sizes: dict[str, int]) -> int:
    """Multiply-accumulates of a step at batch 1 when nothing is expanded.

    Equals HW * product of contracted, produced, diagonal and spectator sizes * kernel area (SeKron, MACs_k).
    """
    height, width = step.output_size
    axes = step.roles.contracted | step.roles.produced | step.roles.diagonal | step.roles.spectators
    return height * width * math.prod(step.geometry.kernel) * math.prod(sizes[axis] for axis in axes)


def _step_geometries(structure: Structure, geometry: ConvGeometry, order: tuple[int, ...]) -> list[ConvGeometry]:
    """Kernel, dilation, padding and stride of each step.

    Per axis all the padding sits at the first executed step whose kernel is wider than 1 and all the stride at the
    last such one, which is where both cost least; an axis with no wide kernel takes both at the first step.
    """
    kernels = [structure.factors[k].size[2:] for k in order]
    padded = [_first([kernel[axis] > 1 for kernel in kernels]) for axis in (0, 1)]
    strided = [_last([kernel[axis] > 1 for kernel in kernels]) for axis in (0, 1)]
    result = []
    for position, k in enumerate(order):
        after = structure.factors[k + 1 :]
        stride = [geometry.stride[axis] if position == strided[axis] else 1 for axis in (0, 1)]
        pads: Pads = (
            geometry.pads[0] if position == padded[0] else 0,
            geometry.pads[1] if position == padded[1] else 0,
            geometry.pads[2] if position == padded[0] else 0,
            geometry.pads[3] if position == padded[1] else 0,
        )
        dilation = (
            geometry.dilation[0] * math.prod(factor.h for factor in after),
            geometry.dilation[1] * math.prod(factor.w for factor in after),
        )
        result.append(ConvGeometry(kernels[position], (stride[0], stride[1]), pads, dilation))
    return result


def _is_flat(geometry: ConvGeometry) -> bool:
    return (geometry.kernel[0], geometry.stride[0], geometry.pads[0], geometry.pads[2]) == (1, 1, 0, 0)


def _first(flags: list[bool]) -> int:
    return flags.index(True) if any(flags) else 0


def _last(flags: list[bool]) -> int:
    return len(flags) - 1 - flags[::-1].index(True) if any(flags) else 0
