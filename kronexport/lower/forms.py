"""Forms: the exact ways to run one Kronecker layer with standard operators.

A form is a partition of the factors, those of a part multiplied into one first (``merge.py``), an order of contraction
and a placement of each axis that a step keeps (``placement.py``), with the memory layouts that need the fewest
Transposes (``layouts.py``). This file puts them together with the layer's sizes.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from kronexport.factorize.gkpd import gkpd_structure
from kronexport.lower.axes import (
    BATCH_AXIS,
    Contraction,
    axis_sizes,
    contraction_macs,
    contractions,
    natural_axes,
    orders,
)
from kronexport.lower.layouts import Axes, Layout, arrangements
from kronexport.lower.merge import Partition, label, merged_structure, partitions, unmerged
from kronexport.lower.placement import BASELINES, MOST_COMBINATIONS
from kronexport.records import ConvGeometry, Pair, Structure

DENSE = "dense"
"""Name of the form that rebuilds W and runs one Conv."""


@dataclass(frozen=True, slots=True)
class Step(Layout):
    """One Conv: a contraction in its layout."""

    contraction: Contraction

    @property
    def is_expanded(self) -> bool:
        """Whether its weight is block-diagonal."""
        return not set(self.inputs).isdisjoint(self.outputs)


@dataclass(frozen=True)
class Form:
    """A named chain of steps; ``dense`` has none. ``final_transpose_from`` is set if the natural order needs one.

    The steps contract the factors of ``merged``: what ``structure`` is after the parts of ``partition`` are multiplied.
    """

    name: str
    structure: Structure
    partition: Partition
    geometry: ConvGeometry
    input_size: Pair
    steps: tuple[Step, ...]
    final_transpose_from: Axes | None

    @property
    def placement(self) -> str:
        """The name without the order."""
        return self.name.partition("-")[0]

    @property
    def merged(self) -> Structure:
        """The structure whose factors the steps contract."""
        return merged_structure(self.structure, self.partition)

    @cached_property
    def sizes(self) -> dict[str, int]:
        return axis_sizes(self.merged, self.geometry.group)

    def channels(self, axes: Iterable[str]) -> int:
        """Product of the sizes of ``axes``, the batch counting 1."""
        return math.prod(self.sizes[axis] for axis in axes if axis != BATCH_AXIS)

    @property
    def output_axes(self) -> Axes:
        """``n g f1 .. fS`` without axes of size 1: the order that the next layer expects."""
        return natural_axes(self.merged, self.geometry.group, "f")

    @property
    def last_axes(self) -> Axes:
        """The sequence in which the last Conv leaves the output, before any Transpose to ``output_axes``."""
        return self.steps[-1].result if self.steps else self.output_axes

    @property
    def absorbs_affine(self) -> bool:
        """Whether a scale and a shift per output channel fit into the last Conv's weight and bias."""
        return not self.steps or {*self.steps[-1].batch, *self.steps[-1].rows} == {BATCH_AXIS}

    @property
    def transposes(self) -> int:
        return sum(step.transpose_from is not None for step in self.steps) + (self.final_transpose_from is not None)

    @property
    def weights(self) -> int:
        """Elements of all Conv weights as they are stored: repeats over groups and zeros off the diagonal included."""
        if not self.steps:
            return math.prod(self.structure.weight_shape)
        return sum(self._weights(step) for step in self.steps)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates at batch 1."""
        if not self.steps:
            height, width = self.geometry.output_size(self.input_size)
            return height * width * math.prod(self.structure.weight_shape)
        return sum(
            math.prod(step.contraction.output_size) * self.channels(step.batch + step.rows) * self._weights(step)
            for step in self.steps
        )

    def image_size(self, step: Step) -> Pair:
        """(height, width) of the image that a step's Conv reads: rows of several images stand below each other."""
        height, width = step.contraction.input_size
        return self.channels(step.rows) * height, width

    def _weights(self, step: Step) -> int:
        return self.channels(step.groups + step.outputs + step.inputs) * math.prod(step.contraction.geometry.kernel)


def generate_forms(structure: Structure, geometry: ConvGeometry, input_size: Pair) -> tuple[Form, ...]:
    """The forms of a layer that are worth a measurement, ``dense`` first; names are unique and stable.

    ``grouped-2-1`` contracts factor 2, then 1, with all spectators as groups; ``grouped/rows-2-1`` has rows at its
    second step; ``grouped-2-13`` contracts factor 2, then 1 and 3 merged into one. A structure with higher ranks
    (above 1) has the same forms but for those that then need more MACs than dense. docs/lowering.md has the rules by
    which forms are left out.
    """
    dense = Form(DENSE, structure, unmerged(structure), geometry, input_size, (), None)
    worthwhile = [
        form
        for form in every_form(structure, geometry, input_size)
        if form.macs < dense.macs or (form.placement in BASELINES and form.partition == dense.partition)
    ]
    worthwhile.sort(key=lambda form: (*BASELINES, form.placement).index(form.placement))
    return (dense, *worthwhile)


def dense_form(weight_shape: tuple[int, int, int, int], geometry: ConvGeometry, input_size: Pair) -> Form:
    """The form of a layer that is not factorized: W [F, C / group, kh, kw] is the only factor with elements."""
    structure = gkpd_structure(weight_shape, (1, 1, 1, 1), 1)
    return Form(DENSE, structure, unmerged(structure), geometry, input_size, (), None)


def every_form(structure: Structure, geometry: ConvGeometry, input_size: Pair) -> Iterator[Form]:
    """All but ``dense``, those that need more MACs than it included."""
    chains = list(_chains(structure, geometry, input_size))
    of_length = Counter(len(chain) for _, chain in chains)  # each number of Convs has combinations of its own
    for partition, chain in chains:
        merged = merged_structure(structure, partition)
        start, end = (natural_axes(merged, geometry.group, letter) for letter in "cf")
        most = MOST_COMBINATIONS // of_length[len(chain)]
        for found in arrangements(tuple(step.roles for step in chain), start, end, most):
            name = _name(found.word, partition, chain)
            steps = tuple(map(_step, found.layouts, chain))
            yield Form(name, structure, partition, geometry, input_size, steps, found.final)


def least_macs(structure: Structure, geometry: ConvGeometry, input_size: Pair) -> int:
    """Multiply-accumulates at batch 1 of the leanest form but ``dense``."""
    totals = []
    for partition, chain in _chains(structure, geometry, input_size):
        sizes = axis_sizes(merged_structure(structure, partition), geometry.group)
        totals.append(sum(contraction_macs(step, sizes) for step in chain))
    return min(totals)


def _chains(
    structure: Structure, geometry: ConvGeometry, input_size: Pair
) -> Iterator[tuple[Partition, tuple[Contraction, ...]]]:
    """The contractions of every merged network in every order, the unmerged one's first."""
    for partition in partitions(structure, geometry.group):
        merged = merged_structure(structure, partition)
        for order in orders(merged):
            yield partition, contractions(merged, geometry, input_size, order)


def _name(word: str, partition: Partition, chain: tuple[Contraction, ...]) -> str:
    """The placement, its axes numbered as the factors that were merged; then the parts as they are contracted."""
    labels = [label(part) for part in partition]
    placement = re.sub(r"\b([fc])(\d)\b", lambda axis: axis[1] + labels[int(axis[2]) - 1], word)
    return "-".join([placement, *(labels[step.factor] for step in chain)])


def _step(layout: Layout, contraction: Contraction) -> Step:
    return Step(
        layout.batch,
        layout.groups,
        layout.inputs,
        layout.outputs,
        layout.rows,
        layout.transpose_from,
        contraction,
    )
