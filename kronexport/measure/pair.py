"""The stage ``measure``: a compressed network against its dense self, in time and in memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kronexport.measure.latency import bench_models
from kronexport.measure.memory import MemoryResult, measure_memory
from kronexport.measure.setting import Setting, Timing
from kronexport.records import LatencyStats, Speedup


@dataclass(frozen=True, slots=True)
class SideFigures:
    """What was measured of one of the two."""

    latency_ms: LatencyStats
    peak_memory_bytes: int | None
    build_peak_memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class PairFigures:
    """Both sides and how they compare; ``unmeasured`` has a reason for each memory figure that is None."""

    dense: SideFigures
    compressed: SideFigures
    speedup: Speedup
    environment: dict[str, Any]
    protocol: dict[str, Any]
    unmeasured: dict[str, str]


def measure_pair(dense: Path, compressed: Path, setting: Setting, timing: Timing) -> PairFigures:
    """Latency interleaved in one fresh process, then the memory of each in a process of its own.

    Raises:
        KronexportError: As ``Machine.run_agent``.
    """
    models = {"dense": dense, "compressed": compressed}
    latency = bench_models(models, setting, timing)
    memory = {side: measure_memory(path, setting) for side, path in models.items()}
    return PairFigures(
        dense=_side(latency.latency_ms["dense"], memory["dense"]),
        compressed=_side(latency.latency_ms["compressed"], memory["compressed"]),
        speedup=latency.speedups["compressed"],
        environment=latency.environment,
        protocol={**latency.protocol, "memory": memory["dense"].method},
        unmeasured={
            f"{side}.{figure}": result.reason
            for side, result in memory.items()
            for figure in ("peak_memory_bytes", "build_peak_memory_bytes")
            if result.reason is not None and getattr(result, figure) is None
        },
    )


def _side(latency: LatencyStats, memory: MemoryResult) -> SideFigures:
    return SideFigures(latency, memory.peak_memory_bytes, memory.build_peak_memory_bytes)
