"""Placement: where an axis that a step keeps goes, and which combinations of that are tried along a chain.

A step keeps its spectator and its diagonal axes. Each of them goes to a place in
``[batch][groups][channels][rows] h w`` by a rule of ``PLACEMENTS``; a new placement is one more rule there. Channels
are two places, ``inputs`` and ``outputs``: an axis in both makes the weight block-diagonal over it.
"""

import itertools
import math
from collections.abc import Callable
from typing import Final, Literal

from kronexport.lower.axes import Roles

Place = Literal["batch", "groups", "inputs", "outputs", "rows"]
Assignment = tuple[tuple[str, str], ...]
"""(axis, name of its placement) for each axis that a step keeps, in alphabetical order."""

MOST_COMBINATIONS: Final = 384
"""Of placements that are tried for one structure and number of steps, over all orders."""


def grouped(_step: Roles, _axis: str) -> tuple[Place, ...]:
    """Groups of the Conv; the weights are repeated over a spectator and differ over a diagonal axis."""
    return ("groups",)


def folded(step: Roles, axis: str) -> tuple[Place, ...]:
    """Into the batch, as the papers do; all images share the weights, so no diagonal axis."""
    return () if axis in step.diagonal else ("batch",)


def rows(step: Roles, axis: str) -> tuple[Place, ...]:
    """Images below each other in one tall image, where a step works within each row."""
    return ("rows",) if step.flat and axis not in step.diagonal else ()


def expanded(_step: Roles, _axis: str) -> tuple[Place, ...]:
    """Input and output channels with a block-diagonal weight: more MACs, no groups, outputs in any order."""
    return "inputs", "outputs"


BASELINES: Final = ("grouped", "folded")
"""Alike at all steps: group and shuffle, and the papers' own forward."""

PLACEMENTS: Final[dict[str, Callable[[Roles, str], tuple[Place, ...]]]] = {
    "grouped": grouped,
    "folded": folded,
    "rows": rows,
    "expanded": expanded,
}
"""By the word that names them: the places of an axis, none if it can't be placed so. ``grouped`` always can."""


def places_of(step: Roles, assignment: Assignment) -> dict[Place, frozenset[str]]:
    """The axes in each place for one step, the batch axis left out."""
    axes: dict[Place, set[str]] = {
        "batch": set(),
        "groups": set(),
        "inputs": set(step.contracted),
        "outputs": set(step.produced),
        "rows": set(),
    }
    for axis, placement in assignment:
        for place in PLACEMENTS[placement](step, axis):
            axes[place].add(axis)
    return {place: frozenset(members) for place, members in axes.items()}


def combinations(chain: tuple[Roles, ...], most: int) -> dict[tuple[Assignment, ...], str]:
    """Assignments for all steps of a chain, and what each combination is called; those alike at all steps first.

    Every axis is placed on its own where that makes at most ``most`` combinations, else all those of a step alike
    where that does, else all of the chain. Where a placement is not allowed, alike means ``grouped``.
    """
    found: dict[tuple[Assignment, ...], str] = {}
    for placement in PLACEMENTS:
        found.setdefault(tuple(_alike(step, placement) for step in chain), placement)
    if math.prod(len(options) for step in chain for options in _options(step).values()) <= most:
        words = [_each(step) for step in chain]
    else:
        words = [_one_a_step(step) for step in chain]
    if math.prod(map(len, words)) <= most:
        for combination in itertools.product(*words):
            name = "/".join(word[assignment] for word, assignment in zip(words, combination, strict=True))
            found.setdefault(combination, name)
    return found


def _options(step: Roles) -> dict[str, list[str]]:
    """The placements that each axis which the step keeps may have."""
    kept = sorted(step.spectators | step.diagonal)
    return {axis: [name for name, allowed in PLACEMENTS.items() if allowed(step, axis)] for axis in kept}


def _alike(step: Roles, placement: str) -> Assignment:
    return tuple((axis, placement if placement in allowed else "grouped") for axis, allowed in _options(step).items())


def _one_a_step(step: Roles) -> dict[Assignment, str]:
    """All axes of a step placed alike; a step that keeps none is ``plain``."""
    if not (step.spectators or step.diagonal):
        return {(): "plain"}
    words: dict[Assignment, str] = {}
    for placement in PLACEMENTS:
        words.setdefault(_alike(step, placement), placement)
    return words


def _each(step: Roles) -> dict[Assignment, str]:
    """Every axis placed on its own, named axis by axis where they are not alike."""
    words = _one_a_step(step)
    options = _options(step)
    for placements in itertools.product(*options.values()):
        assignment = tuple(zip(options, placements, strict=True))
        words.setdefault(assignment, "+".join(map(".".join, assignment)))
    return words
