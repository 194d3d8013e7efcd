"""Latency of models that compute the same, timed against each other in one fresh process."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from kronexport.measure.setting import Setting, Timing
from kronexport.records import LatencyStats, Speedup

LOAD_ALLOWANCE_SECONDS: Final = 600.0
"""What loading, and rounds that hold one long inference each, may take on top of the timed seconds."""

Samples = tuple[tuple[float, ...], ...]
"""Milliseconds of every inference, one tuple a round."""


@dataclass(frozen=True, slots=True)
class BenchResult:
    """Latencies by model name. ``speedups`` has every model but the first, which is what each is compared with."""

    latency_ms: dict[str, LatencyStats]
    speedups: dict[str, Speedup]
    environment: dict[str, Any]
    protocol: dict[str, Any]
    samples_ms: dict[str, Samples]


def bench_models(models: Mapping[str, Path], setting: Setting, timing: Timing) -> BenchResult:
    """Times any number of models in one fresh process, interleaved round by round.

    Args:
        models: Path of each model by its name; the first is the baseline of the speed-ups.
        setting: Machine, runtime, threads and input of all of them.
        timing: How long.

    Raises:
        KronexportError: As ``Machine.run_agent``.
    """
    job = setting.job("bench", models) | asdict(timing)
    timeout = LOAD_ALLOWANCE_SECONDS + 3 * len(models) * (timing.warmup_seconds + timing.seconds)
    result = setting.machine.run_agent(job, timeout_seconds=timeout)
    return BenchResult(
        latency_ms={model["name"]: LatencyStats(**model["latency_ms"]) for model in result["models"]},
        speedups={name: _speedup(value) for name, value in result["speedups"].items()},
        environment=result["environment"],
        protocol=result["protocol"],
        samples_ms={model["name"]: tuple(map(tuple, model["samples_ms"])) for model in result["models"]},
    )


def _speedup(value: dict[str, Any]) -> Speedup:
    low, high = value["ci95"]
    return Speedup(median=value["median"], ci95=(low, high), verdict=value["verdict"])
