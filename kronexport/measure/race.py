"""Times many models of one input in one fresh process; clear losers are not timed to the end."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from kronexport.measure.latency import LOAD_ALLOWANCE_SECONDS
from kronexport.measure.setting import Setting, Timing
from kronexport.records import LatencyStats

FINALS: Final = 2
"""More processes that the finalists of a race on several threads run in."""
FINALISTS: Final = 4
NEAR: Final = 0.85
"""Of the best speed-up: with two threads speed-ups differ by a tenth from process to process, with one by a percent."""


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
    return race_result(setting.machine.run_agent(job, timeout_seconds=timeout))


def race_result(result: Mapping[str, Any]) -> RaceResult:
    """What an agent's result of the task ``race`` says."""
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


def settled_race(models: Mapping[str, Path], setting: Setting, timing: RaceTiming) -> RaceResult:
    """As ``race_models``, but on several threads what one process cannot tell apart runs in more of them.

    The speed-ups of the ``FINALISTS``, those ``NEAR`` the best, are then the median over all processes, and ``rounds``
    those of all; ``latency_ms`` and ``floor_ms`` stay those of the first process.

    Raises:
        KronexportError: As ``race_models``.
    """
    result = race_models(models, setting, timing)
    reference, *_ = models
    finalists = _finalists(result, reference)
    if setting.threads == 1 or not finalists[1:]:
        return result
    wanted = {name: models[name] for name in (reference, *finalists)}
    finals = [race_models(wanted, setting, timing).raced for _ in range(FINALS)]
    raced = dict(result.raced)
    for name in finalists:
        times = [raced[name], *(final[name] for final in finals if name in final)]
        speedup, rounds = median(time.speedup for time in times), sum(time.rounds for time in times)
        raced[name] = replace(raced[name], speedup=speedup, rounds=rounds)
    return replace(result, raced=raced)


def _finalists(result: RaceResult, reference: str) -> list[str]:
    speedups = {name: raced.speedup for name, raced in result.raced.items() if name != reference}
    best = sorted(speedups, key=lambda name: -speedups[name])[:FINALISTS]
    return [name for name in best if speedups[name] >= NEAR * speedups[best[0]]]
