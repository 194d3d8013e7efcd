"""Layouts: the order of the axes in memory along a chain of steps, with the fewest Transposes.

Memory is one sequence of axes, ``[batch][groups][channels][rows] h w``. A step needs its axes in those places, and a
Transpose is put before it only where the sequence at hand cannot be cut that way; between cuts a Reshape suffices. No
sizes are needed for that, so structures with the same axes share the result.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from kronexport.lower.axes import BATCH_AXIS, Roles
from kronexport.lower.placement import BASELINES, Assignment, combinations, places_of

Axes = tuple[str, ...]

_MAX_ARRANGEMENTS: Final = 24
"""Orders of the axes within one place that are tried; beyond it the order at hand is kept."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The axes of one step by place. Its input is ``batch + groups + inputs + rows``, its output has ``outputs``.

    An axis in both ``inputs`` and ``outputs`` is expanded. ``transpose_from`` is the sequence before, where a Transpose
    is needed to get there, else None.
    """

    batch: Axes
    groups: Axes
    inputs: Axes
    outputs: Axes
    rows: Axes
    transpose_from: Axes | None

    @property
    def source(self) -> Axes:
        return self.batch + self.groups + self.inputs + self.rows

    @property
    def result(self) -> Axes:
        return self.batch + self.groups + self.outputs + self.rows


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The layouts of a chain in the placement called ``word``.

    ``final`` is the sequence at its end, if a last Transpose is needed to get to the natural order, else None.
    """

    word: str
    layouts: tuple[Layout, ...]
    final: Axes | None


@lru_cache(maxsize=1024)
def arrangements(chain: tuple[Roles, ...], start: Axes, end: Axes, most: int) -> tuple[Arrangement, ...]:
    """The arrangements of a chain that are worth a measurement, none of them equal to another.

    Args:
        chain: the roles of all axes at each step.
        start: the sequence before the first step, the batch axis included.
        end: the one wanted after the last.
        most: combinations of placements, as in ``placement.combinations``.
    """
    found: dict[tuple[Layout, ...], Arrangement] = {}
    for assignments, word in combinations(chain, most).items():
        arrangement = _arranged(word, chain, assignments, start, end)
        found.setdefault(arrangement.layouts, arrangement)
    alike: defaultdict[_Convs, list[_Effort]] = defaultdict(list)
    efforts = {arrangement: _Effort.of(arrangement) for arrangement in found.values()}
    for arrangement, effort in efforts.items():
        alike[_convs(arrangement)].append(effort)
    return tuple(
        one
        for one, effort in efforts.items()
        if one.word in BASELINES or not any(other.is_less_than(effort) for other in alike[_convs(one)])
    )


def _arranged(
    word: str, chain: tuple[Roles, ...], assignments: tuple[Assignment, ...], start: Axes, end: Axes
) -> Arrangement:
    reached = _reached(chain, assignments, start)
    sequence, (_, layouts) = min(reached.items(), key=lambda item: item[1][0] + (item[0] != end))
    return Arrangement(word, layouts, None if sequence == end else sequence)


@lru_cache(maxsize=4096)
def _reached(
    chain: tuple[Roles, ...], assignments: tuple[Assignment, ...], start: Axes
) -> Mapping[Axes, tuple[int, tuple[Layout, ...]]]:
    """The sequences that a chain may end in, each with the fewest Transposes to get there and the layouts that do."""
    if not chain:
        return {start: (0, ())}
    found: dict[Axes, tuple[int, tuple[Layout, ...]]] = {}
    for sequence, (transposes, layouts) in _reached(chain[:-1], assignments[:-1], start).items():
        for layout in _laid_out(chain[-1], assignments[-1], sequence):
            count, result = transposes + (layout.transpose_from is not None), layout.result
            if result not in found or count < found[result][0]:
                found[result] = count, (*layouts, layout)
    return found


@lru_cache(maxsize=65536)
def _laid_out(step: Roles, assignment: Assignment, sequence: Axes) -> tuple[Layout, ...]:
    """Every way to lay the axes out for one step: as they are if that can be cut, else after a Transpose."""
    places = places_of(step, assignment)
    wanted = places["batch"] | {BATCH_AXIS}, places["groups"], places["inputs"], places["rows"]
    bounds = [0, *itertools.accumulate(map(len, wanted))]
    parts = [sequence[begin:end] for begin, end in itertools.pairwise(bounds)]
    fits = all(set(part) == axes for part, axes in zip(parts, wanted, strict=True))
    if fits:
        sources: Iterable[tuple[Axes, ...]] = [tuple(parts)]
    else:
        held = [tuple(axis for axis in sequence if axis in axes) for axes in wanted]
        # the order of the input channels is of no consequence: the weight follows it
        sources = itertools.product(_orders(held[0]), _orders(held[1]), [held[2]], _orders(held[3]))
    return tuple(
        Layout(batch, groups, inputs, outputs, rows, None if fits else sequence)
        for batch, groups, inputs, rows in sources
        for outputs in _orders(tuple(sorted(places["outputs"])))
    )


def _orders(axes: Axes) -> Iterator[Axes]:
    """All orders of ``axes``, the given one first; only that one if there are too many."""
    if math.factorial(len(axes)) > _MAX_ARRANGEMENTS:
        return iter([axes])
    return itertools.permutations(axes)


_Convs = tuple[tuple[frozenset[str], frozenset[str], frozenset[str]], ...]


def _convs(arrangement: Arrangement) -> _Convs:
    """Of each Conv the axes of its groups and of the channels in each."""
    return tuple((frozenset(a.groups), frozenset(a.inputs), frozenset(a.outputs)) for a in arrangement.layouts)


@dataclass(frozen=True, slots=True)
class _Effort:
    """By what arrangements of the same Convs differ: the axes of each one's images, and what stands between them.

    The one of less effort can be left to stand for the other: the rule is in docs/lowering.md. Its Convs have fewer
    images, with more rows instead, and it has no Reshape or Transpose that the other lacks.
    """

    images: tuple[frozenset[str], ...]
    joints: tuple[int, ...]

    @classmethod
    def of(cls, arrangement: Arrangement) -> "_Effort":
        return cls(tuple(frozenset(layout.batch) for layout in arrangement.layouts), tuple(_joints(arrangement)))

    def is_less_than(self, other: "_Effort") -> bool:
        return (
            self.images != other.images
            and all(a <= b for a, b in zip(self.images, other.images, strict=True))
            and all(a <= b for a, b in zip(self.joints, other.joints, strict=True))
        )


def _joints(arrangement: Arrangement) -> list[int]:
    """What stands before each step and after the last: 0 nothing, 1 a Reshape, 2 a Transpose with its Reshapes."""
    joints = []
    batch, rows = {BATCH_AXIS}, set[str]()
    for layout in arrangement.layouts:
        moved = (set(layout.batch), set(layout.rows)) != (batch, rows)
        joints.append(2 if layout.transpose_from is not None else int(moved))
        batch, rows = set(layout.batch), set(layout.rows)
    joints.append(2 if arrangement.final is not None else int((batch, rows) != ({BATCH_AXIS}, set())))
    return joints
