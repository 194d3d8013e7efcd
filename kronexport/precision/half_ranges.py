"""Which nodes FP16 is too small for: what they read or make overflows in it, or goes under.

FP16 has 11 bits of mantissa: a value in its range is rounded by a relative 2^-11 at most. A tensor that moves by more,
in relative L2, has values that are inf in it, or so small that they have fewer bits or none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

LARGEST: Final = 65504.0
"""Of the finite FP16 values."""

HEADROOM: Final = 2.0
"""How much larger a value may become on images that were not looked at."""

ROUNDING: Final = 2.0**-11


@dataclass(slots=True)
class Range:
    """What FP16 does to a value, over all arrays that were added: the largest magnitude, and squared L2 norms."""

    largest: float = 0.0
    lost: float = 0.0
    norm: float = 0.0

    def add(self, array: NDArray[Any]) -> None:
        """Take account of one more array of the value; what is not finite to begin with does not count."""
        values = array[np.isfinite(array)].astype(np.float64)
        with np.errstate(over="ignore"):
            rounded = values.astype(np.float16)
        finite = np.isfinite(rounded)
        self.largest = max(self.largest, float(np.max(np.abs(values), initial=0.0)))
        self.lost += float(np.sum((rounded[finite] - values[finite]) ** 2))
        self.norm += float(np.sum(values**2))

    def complaint(self, headroom: float) -> str | None:
        """Why FP16 is too small; None if it is not."""
        if self.largest * headroom > LARGEST:
            return f"reaches {self.largest:.1e}"
        moved = float(np.sqrt(self.lost / self.norm)) if self.norm else 0.0
        if moved > ROUNDING:
            return f"is so small, at most {self.largest:.1e}, that FP16 moves it by {moved:.1e}"
        return None


@dataclass(slots=True)
class ValueRanges:
    """Of each float value by name."""

    of: dict[str, Range] = field(default_factory=dict)

    def add(self, values: Mapping[str, NDArray[Any]]) -> None:
        for name, array in values.items():
            if array.dtype == np.float32:
                self.of.setdefault(name, Range()).add(array)


def too_small_for(model: ir.Model, ranges: ValueRanges) -> dict[str, str]:
    """By name of each node that FP16 is too small for, the reason: an input, a weight or an output of it.

    Args:
        model: in float.
        ranges: of its inputs and of what its nodes make.
    """
    complaints = {name: found.complaint(HEADROOM) for name, found in ranges.of.items()}
    for name, weight in model.graph.initializers.items():
        if weight.dtype == ir.DataType.FLOAT and weight.const_value is not None:
            constant = Range()
            constant.add(weight.const_value.numpy())
            complaints[name] = constant.complaint(1.0)
    reasons: dict[str, str] = {}
    for node in model.graph:
        for value in (*node.inputs, *node.outputs):
            if value is not None and (complaint := complaints.get(str(value.name))):
                reasons.setdefault(str(node.name), f"{value.name} {complaint}")
    return reasons


def with_all_values(model: ir.Model) -> ir.Model:
    """A copy whose outputs are all float values that its nodes make: what ``ValueRanges`` are taken of."""
    told = model.clone()
    given = set(told.graph.outputs)
    for node in told.graph:
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT and value not in given:
                told.graph.outputs.append(value)
    return told
