"""Times many models of one input in one fresh process; clear losers are not timed to the end."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from kronexport.measure.latency import LOAD_ALLOWANCE_SECONDS
from kronexport.measure.setting import Setting, Timing
from kronexport.records import LatencyStats


@dataclass(frozen=True, slots=True)
class RaceTiming(Timing):
    """How long to time, of those that stay to the end.

    After ``drop_after`` rounds, and after each one from there on, models leave whose floor is above ``drop_factor``
    times the least.
    """

    seconds: float = 0.3
    rounds: int = 10
    warmup_seconds: float = 0.1
    drop_after: int = 3
    drop_factor: float = 1.5


@dataclass(frozen=True, slots=True)
class Raced:
    """One model's time.

    ``floor_ms`` is the median, over the ``rounds`` that the model took part in, of the fastest inference of each;
    ``speedup`` the median of the reference's fastest over the model's in those rounds, 1 for the reference itself.
    """

    latency_ms: LatencyStats
    floor_ms: float
    rounds: int
    speedup: float


@dataclass(frozen=True, slots=True)
class RaceResult:
    """What became of each model by its name: a time, or the reason why the runtime does not run it."""

    raced: dict[str, Raced]
    failed: dict[str, str]


def race_models(models: Mapping[str, Path], setting: Setting, timing: RaceTiming) -> RaceResult:
    """Times ``models`` interleaved round by round. A model that the runtime does not load or run is set aside.

    Args:
        models: Path of each model by its name; the first is the reference, which is timed to the end.
        setting: Machine, runtime, threads and input of all of them.
        timing: How long.

    Raises:
        KronexportError: As ``Machine.run_agent``; also where the runtime does not run the reference.
    """
    job = setting.job("race", models) | asdict(timing)
    timeout = LOAD_ALLOWANCE_SECONDS + 3 * len(models) * (timing.warmup_seconds + timing.seconds)
    result = setting.machine.run_agent(job, timeout_seconds=timeout)
    speedups = {name: value["median"] for name, value in result["speedups"].items()}
    return RaceResult(
        raced={
            model["name"]: Raced(
                latency_ms=LatencyStats(**model["latency_ms"]),
                floor_ms=model["floor_ms"],
                rounds=len(model["samples_ms"]),
                speedup=speedups.get(model["name"], 1.0),
            )
            for model in result["models"]
        },
        failed=result["failed"],
    )
