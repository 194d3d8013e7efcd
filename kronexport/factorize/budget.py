"""One weight and one budget: what every structure makes of it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from kronexport.errors import GoalError, KronexportError, UserInputError
from kronexport.factorize.scan import method_errors
from kronexport.factorize.spectra import Spectrum, scanned_structures
from kronexport.factorize.tensor import Size4, check_array, check_values
from kronexport.records import Structure


@dataclass(frozen=True, slots=True)
class ScannedStructure:
    """A structure at the highest rank within the budget. ``macs`` are those at one output position.

    ``rel_error`` = ||W - W^|| / ||W|| of its best factors, about 1e-6 off in its square.
    """

    structure: Structure
    params: int
    macs: int
    rel_error: float


def scan(weight: NDArray[Any], *, params: float = math.inf, macs: float = math.inf) -> tuple[ScannedStructure, ...]:
    """Every GKPD structure that a budget allows, at the highest rank that it allows, by ascending error.

    What was scanned before is read from the cache (``kronexport cache info``).

    Args:
        weight: [F, C, kh, kw], floating point, finite. Prime F or C leave few structures, since a factor has all of
            that mode or nothing: kernels split off, and low rank in channels.
        params: at most so many elements in both factors together.
        macs: at most so many multiply-accumulates at one output position of an ungrouped conv of stride 1, in the
            cheaper order of the factors. The dense conv has F C kh kw, as many as it has params.

    Raises:
        UserInputError: the weight is no finite floating-point array of four axes, has no structure at all, or a
            budget is not positive.
        GoalError: no structure is within the budget; the message says the least.
    """
    check_array(weight, "scan")
    check_values(weight, "scan")
    budget = {"params": params, "macs": macs}
    for name, most in budget.items():
        if not most > 0:
            raise UserInputError(f"scan: {name}={most}, expected a positive number")
    found = [
        ScannedStructure(structure, structure.params, position_macs(structure), math.sqrt(error))
        for structure, error in _within(method_errors("gkpd", weight), params, macs)
    ]
    if not found:
        raise _out_of_reach(weight.shape, budget)
    return tuple(sorted(found, key=lambda one: (one.rel_error, one.params, one.macs)))


def position_macs(structure: Structure) -> int:
    """Multiply-accumulates of a GKPD conv at one output position at stride 1, in the cheaper order of the factors."""
    outer, inner = structure.factors
    first, second = math.prod(outer.size), math.prod(inner.size)
    return structure.ranks[0] * min(first * inner.c + second * outer.f, second * outer.c + first * inner.f)


def _within(spectra: Mapping[Structure, Spectrum], params: float, macs: float) -> Iterator[tuple[Structure, float]]:
    """Each structure that rank 1 is affordable of, at the highest affordable rank, with its squared error."""
    for unit, spectrum in spectra.items():
        rank = int(min(len(spectrum), params / unit.params, macs / position_macs(unit)))
        if rank > 0:
            yield replace(unit, ranks=(rank,)), float(spectrum[rank - 1])


def _out_of_reach(weight_shape: Size4, budget: Mapping[str, float]) -> KronexportError:
    units = list(scanned_structures(weight_shape))
    if not units:
        return UserInputError(
            f"scan: a weight {weight_shape} has no structure: its {math.prod(weight_shape)} elements cannot be split "
            "into two factors"
        )
    costs = {unit: {"params": unit.params, "macs": position_macs(unit)} for unit in units}
    asked = [name for name, most in budget.items() if most < math.inf]
    least = {name: min(units, key=lambda unit: costs[unit][name]) for name in asked}
    wanted = " and ".join(f"{name} <= {budget[name]:.6g}" for name in asked)
    reached = ", ".join(f"{costs[unit][name]} {name} ({unit} at rank 1)" for name, unit in least.items())
    return GoalError(f"scan: no structure of a weight {weight_shape} has {wanted}; the least of each: {reached}")
