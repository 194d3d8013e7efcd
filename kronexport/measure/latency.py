"""Latency of models that compute the same, timed against each other in one fresh process (design: Measuring)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kronexport.measure.process import run_agent
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


@dataclass(frozen=True, slots=True)
class LatencyResult:
    """A compressed model against its dense self; ``samples_ms`` by "dense" and "compressed"."""

    dense: LatencyStats
    compressed: LatencyStats
    speedup: Speedup
    environment: dict[str, Any]
    protocol: dict[str, Any]
    samples_ms: dict[str, Samples]


def bench_models(
    models: Mapping[str, Path],
    *,
    runtime: str,
    threads: int,
    input_name: str,
    shape: Sequence[int],
    seconds: float = 5.0,
    rounds: int = 20,
    warmup_seconds: float = 1.0,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> BenchResult:
    """Times any number of models in one fresh process, interleaved round by round.

    Args:
        models: Path of each model by its name; the first is the baseline of the speed-ups.
        runtime: "onnxruntime" or "openvino".
        threads: Threads of one inference.
        input_name: The one input that all models have.
        shape: Its static shape [N, C, H, W]; it gets seeded standard normal values.
        seconds: Timed seconds of each model, in total over all rounds.
        rounds: Rounds that they are spread over; each gives one paired ratio. Fewer than 5 give no verdict.
        warmup_seconds: Untimed seconds of each model before the first round.
        options: Differences from the agent's runtime options.
        seed: Of the input and the bootstrap.

    Raises:
        KronexportError: As ``run_agent``.
    """
    job = {
        "task": "bench",
        "runtime": runtime,
        "threads": threads,
        "options": dict(options or {}),
        "models": [{"name": name, "path": str(path.resolve())} for name, path in models.items()],
        "input": {"name": input_name, "shape": list(shape)},
        "warmup_seconds": warmup_seconds,
        "seconds": seconds,
        "rounds": rounds,
        "seed": seed,
    }
    timeout = LOAD_ALLOWANCE_SECONDS + 3 * len(models) * (warmup_seconds + seconds)
    result = run_agent(job, timeout_seconds=timeout)
    return BenchResult(
        latency_ms={model["name"]: LatencyStats(**model["latency_ms"]) for model in result["models"]},
        speedups={name: _speedup(value) for name, value in result["speedups"].items()},
        environment=result["environment"],
        protocol=result["protocol"],
        samples_ms={model["name"]: tuple(map(tuple, model["samples_ms"])) for model in result["models"]},
    )


def measure_latency(
    dense: Path,
    compressed: Path,
    *,
    runtime: str,
    threads: int,
    input_name: str,
    shape: Sequence[int],
    seconds: float = 5.0,
    rounds: int = 20,
    warmup_seconds: float = 1.0,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> LatencyResult:
    """Times a compressed model against its dense self; arguments and errors as ``bench_models``."""
    result = bench_models(
        {"dense": dense, "compressed": compressed},
        runtime=runtime,
        threads=threads,
        input_name=input_name,
        shape=shape,
        seconds=seconds,
        rounds=rounds,
        warmup_seconds=warmup_seconds,
        options=options,
        seed=seed,
    )
    return LatencyResult(
        dense=result.latency_ms["dense"],
        compressed=result.latency_ms["compressed"],
        speedup=result.speedups["compressed"],
        environment=result.environment,
        protocol=result.protocol,
        samples_ms=result.samples_ms,
    )


def _speedup(value: dict[str, Any]) -> Speedup:
    low, high = value["ci95"]
    return Speedup(median=value["median"], ci95=(low, high), verdict=value["verdict"])
