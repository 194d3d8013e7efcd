"""Forms: the exact ways to run one Kronecker layer with standard operators.

A form is an order of contraction and a placement of the spectator axes, so far the same one for all of them. Memory is
one sequence of axes, ``[batch axes][group axes][channel axes] h w``; a step needs its axes in those three places and a
Transpose is put before it only where the sequence at hand cannot be cut that way. Between cuts a Reshape suffices.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from kronexport.lower.axes import BATCH_AXIS, Contraction, axis_sizes, contractions, natural_axes, orders
from kronexport.records import ConvGeometry, Pair, Structure

Axes = tuple[str, ...]

DENSE = "dense"
"""Name of the form that rebuilds W and runs one Conv."""

_MAX_ARRANGEMENTS = 24
"""Orders of the axes within one place that are tried; beyond it the order at hand is kept."""


class Placement(Enum):
    """Where a spectator axis goes while a step does not touch it."""

    BATCH = "folded"
    """Into the batch, as the papers do."""
    GROUPS = "grouped"
    """Groups of the Conv, its weights repeated."""


@dataclass(frozen=True, slots=True)
class Step:
    """One Conv. Its input is ``batch + groups + inputs``, its output ``batch + groups + outputs``.

    ``transpose_from`` is the sequence before, where a Transpose is needed to get there, else None.
    """

    contraction: Contraction
    batch: Axes
    groups: Axes
    inputs: Axes
    outputs: Axes
    transpose_from: Axes | None

    @property
    def source(self) -> Axes:
        return self.batch + self.groups + self.inputs

    @property
    def result(self) -> Axes:
        return self.batch + self.groups + self.outputs


@dataclass(frozen=True)
class Form:
    """A named chain of steps; ``dense`` has none. ``final_transpose_from`` is set if the natural order needs one."""

    name: str
    structure: Structure
    geometry: ConvGeometry
    input_size: Pair
    steps: tuple[Step, ...]
    final_transpose_from: Axes | None

    @cached_property
    def sizes(self) -> dict[str, int]:
        return axis_sizes(self.structure, self.geometry.group)

    def channels(self, axes: Iterable[str]) -> int:
        """Product of the sizes of ``axes``, the batch counting 1."""
        return math.prod(self.sizes[axis] for axis in axes if axis != BATCH_AXIS)

    @property
    def output_axes(self) -> Axes:
        """``n g f1 .. fS`` without axes of size 1: the order that the next layer expects."""
        return natural_axes(self.structure, self.geometry.group, "f")

    @property
    def absorbs_affine(self) -> bool:
        """Whether a scale and a shift per output channel fit into the last Conv's weight and bias."""
        return not self.steps or not any(axis != BATCH_AXIS for axis in self.steps[-1].batch)

    @property
    def transposes(self) -> int:
        return sum(step.transpose_from is not None for step in self.steps) + (self.final_transpose_from is not None)

    @property
    def weights(self) -> int:
        """Elements of all Conv weights as they are stored, repeats over groups included."""
        if not self.steps:
            return math.prod(self.structure.weight_shape)
        return sum(
            self.channels({*step.groups, *step.inputs, *step.outputs}) * math.prod(step.contraction.geometry.kernel)
            for step in self.steps
        )

    @property
    def macs(self) -> int:
        """Multiply-accumulates at batch 1."""
        if not self.steps:
            height, width = self.geometry.output_size(self.input_size)
            return height * width * math.prod(self.structure.weight_shape)
        return sum(
            math.prod(step.contraction.output_size)
            * math.prod(step.contraction.geometry.kernel)
            * self.channels({*step.batch, *step.groups, *step.inputs, *step.outputs})
            for step in self.steps
        )


def generate_forms(structure: Structure, geometry: ConvGeometry, input_size: Pair) -> tuple[Form, ...]:
    """Every form of a layer, ``dense`` first; names are unique and stable.

    ``grouped-2-1`` contracts factor 2, then 1, with all spectators as groups; ``folded-2-1`` with all of them in
    the batch. A form equal to an earlier one but for its name is left out.
    """
    forms = [Form(DENSE, structure, geometry, input_size, (), None)]
    seen: set[tuple[Step, ...]] = set()
    for placement, order in itertools.product((Placement.GROUPS, Placement.BATCH), orders(structure)):
        chain = contractions(structure, geometry, input_size, order)
        steps, last = _arrange(structure, geometry.group, chain, placement)
        if steps not in seen:
            seen.add(steps)
            name = "-".join([placement.value, *(str(k + 1) for k in order)])
            forms.append(Form(name, structure, geometry, input_size, steps, last))
    return tuple(forms)


def _arrange(
    structure: Structure, group: int, chain: tuple[Contraction, ...], placement: Placement
) -> tuple[tuple[Step, ...], Axes | None]:
    """The steps with the fewest Transposes, and the sequence that a last Transpose starts from, if any."""
    end = natural_axes(structure, group, "f")
    found: dict[Axes, tuple[Step, ...]] = {natural_axes(structure, group, "c"): ()}
    for contraction in chain:
        longer: dict[Axes, tuple[Step, ...]] = {}
        for sequence, steps in found.items():
            for step in _placed(contraction, sequence, placement):
                candidate = (*steps, step)
                if step.result not in longer or _transposes(candidate) < _transposes(longer[step.result]):
                    longer[step.result] = candidate
        found = longer
    sequence, steps = min(found.items(), key=lambda item: _transposes(item[1]) + (item[0] != end))
    return steps, None if sequence == end else sequence


def _transposes(steps: tuple[Step, ...]) -> int:
    return sum(step.transpose_from is not None for step in steps)


def _placed(contraction: Contraction, sequence: Axes, placement: Placement) -> Iterator[Step]:
    """Every way to lay the axes out for one step: as they are if that can be cut, else after a Transpose."""
    in_batch = {BATCH_AXIS} | (contraction.spectators if placement is Placement.BATCH else set())
    in_groups = contraction.diagonal | (contraction.spectators if placement is Placement.GROUPS else set())
    cuts = len(in_batch), len(in_batch) + len(in_groups)
    parts = sequence[: cuts[0]], sequence[cuts[0] : cuts[1]], sequence[cuts[1] :]
    fits = set(parts[0]) == in_batch and set(parts[1]) == in_groups
    if fits:
        layouts: Iterable[tuple[Axes, Axes, Axes]] = [(parts[0], parts[1], parts[2])]
    else:
        layouts = itertools.product(
            _arrangements(axis for axis in sequence if axis in in_batch),
            _arrangements(axis for axis in sequence if axis in in_groups),
            [tuple(axis for axis in sequence if axis in contraction.contracted)],
        )
    for batch, groups, inputs in layouts:
        for outputs in _arrangements(sorted(contraction.produced)):
            yield Step(contraction, batch, groups, inputs, outputs, None if fits else sequence)


def _arrangements(axes: Iterable[str]) -> list[Axes]:
    """All orders of ``axes``, the given one first; only that one if there are too many."""
    given = tuple(axes)
    if math.factorial(len(given)) > _MAX_ARRANGEMENTS:
        return [given]
    return list(itertools.permutations(given))
