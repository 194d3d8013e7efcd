"""Whether boards are equal: by what they are, and by the time that one micro-model takes on each.

A board whose reference differs by no more than times do anyhow counts as equal. One that differs by more is scaled: its
times are multiplied by what the reference takes on the farm over what it takes on the board. One that differs by much
more is set aside, for then it is something else than a little more or less of the same clock. One whose own reference
does not stay what it was, nor comes back to it, is quarantined; what was timed since it last was right is not kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median_low
from typing import Any, Final

from kronexport.lower.forms import dense_form
from kronexport.measure.micro import Trial
from kronexport.records import ConvGeometry

IDENTITY: Final = ("cpu_model", "cpu_features", "machine", "runtime_version", "power_mode")
"""Of an environment, what the measurement store tells boards apart by (``measure.store.Conditions``)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How far references may be apart, as parts of one; chosen, not measured.

    Attributes:
        same: within it a board is equal, and its times are taken as they are.
        most: above it a board is set aside.
        drift: above it, between two runs on one board, it is no longer what it was.
    """

    same: float = 0.03
    most: float = 0.25
    drift: float = 0.15


def reference_trial() -> Trial:
    """The micro-model of the reference: a dense 3x3 Conv of 64 channels at 28x28, 29 million MACs."""
    geometry = ConvGeometry((3, 3), pads=(1, 1, 1, 1))
    return Trial(dense_form((64, 64, 3, 3), geometry, (28, 28)), 1, has_bias=True, activation="Relu")


def identity(environment: Mapping[str, Any]) -> tuple[str, ...]:
    """Equal for boards whose times may stand in one place of the store."""
    return tuple(repr(environment.get(key)) for key in IDENTITY)


def difference(environment: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """In what a board of another identity differs from the others."""
    return ", ".join(
        f"{key} {environment.get(key)}, not {expected.get(key)}"
        for key in IDENTITY
        if environment.get(key) != expected.get(key)
    )


def unit_of(references: Mapping[str, float], known: float | None) -> float:
    """What the reference takes on "the board" that a plan is for, in ms.

    Args:
        references: by board.
        known: what the store has of it, from an earlier plan, to which all times there are; None: nothing.
    """
    return median_low(references.values()) if known is None else known


def factor_of(reference: float, unit: float, limits: Limits) -> float | None:
    """What times of a board are multiplied by; None: it is set aside. ``reference`` is its own, ``unit`` the farm's."""
    apart = abs(reference / unit - 1)
    if apart > limits.most:
        return None
    return 1.0 if apart <= limits.same else unit / reference


def has_drifted(reference: float, before: float, limits: Limits) -> bool:
    """Whether a board is no longer what it was."""
    return abs(reference / before - 1) > limits.drift


def scaled(result: dict[str, Any], factor: float) -> dict[str, Any]:
    """An agent's result with its milliseconds multiplied; ratios, and what was counted, stay."""
    if factor == 1:
        return result

    def model(found: dict[str, Any]) -> dict[str, Any]:
        stats = {key: value if key == "n" else factor * value for key, value in found["latency_ms"].items()}
        samples = [[factor * ms for ms in part] for part in found["samples_ms"]]
        floor = {"floor_ms": factor * found["floor_ms"]} if "floor_ms" in found else {}
        return {**found, "latency_ms": stats, "samples_ms": samples, **floor}

    return {**result, "models": [model(found) for found in result["models"]]}
