"""The boards of ``farm_scale``: real dask workers, as ``kronexport farm worker`` has them, without a board.

    python -m benchmarks.simulated_boards SCHEDULER --boards 50 --first 0 --runs FILE --seconds 0

Nothing that they answer was measured, and it says so: the CPU of their environment is "simulated".
"""

import argparse
import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import dask
from distributed import Worker, WorkerPlugin

from kronexport.farm.farm import ANNOUNCED, QUIET, resource_of
from kronexport.farm.jobs import SEAT
from kronexport.farm.parcel import Files, Job
from kronexport.farm.versions import own_versions

PROFILE: Final = "simulated"
ENVIRONMENT: Final[dict[str, Any]] = {
    "cpu_model": "simulated",
    "cpu_features": [],
    "machine": "simulated",
    "runtime_version": "simulated",
    "power_mode": None,
}
_STATS: Final = ("min", "mean", "p50", "p90", "p95", "p99")


class SimulatedSeat(WorkerPlugin):
    """In the place of a board. A job with a number is a line of the file ``runs``, and takes ``seconds``."""

    name = SEAT

    def __init__(self, runs: Path, seconds: float) -> None:
        self._runs, self._seconds = runs, seconds

    def run(self, _key: str, jobs: Sequence[Job], _seconds: Sequence[float], files: Files, **_: Any) -> dict[str, Any]:
        """As ``Seat.run``."""
        for job in jobs:
            if "number" in job:
                with self._runs.open("a", encoding="utf-8") as stream:
                    stream.write(f"{job['number']}\n")
                time.sleep(self._seconds)
        return {
            "results": [_answered(job, sum(map(len, files.values()))) for job in jobs],
            "outputs": [None] * len(jobs),
        }


def _answered(job: Job, payload: int) -> dict[str, Any]:
    """What the agent would answer to a race; every model takes 1 ms."""
    models = [
        {
            "name": model["name"],
            "latency_ms": {"n": 1, "std": 0.0, **dict.fromkeys(_STATS, 1.0)},
            "samples_ms": [[1.0]],
            "floor_ms": 1.0,
        }
        for model in job["models"]
    ]
    told = {"number": job.get("number"), "payload": payload}
    return {"environment": ENVIRONMENT, "models": models, "speedups": {}, "failed": {}, **told}


async def _serve(given: argparse.Namespace) -> None:
    """So many workers in this process, until it is ended."""
    told = {"board": PROFILE, "place": "nowhere", "versions": own_versions()}
    with dask.config.set(QUIET):
        workers = [
            Worker(
                given.scheduler,
                nthreads=1,
                name=f"{PROFILE}-{given.first + number}",
                resources={resource_of(PROFILE): 1},
                startup_information={ANNOUNCED: lambda _worker: told},
                plugins=(SimulatedSeat(given.runs, given.seconds),),
                memory_limit=0,
            )
            for number in range(given.boards)
        ]
        await asyncio.gather(*workers)
        await asyncio.gather(*(worker.finished() for worker in workers))


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scheduler")
    parser.add_argument("--boards", type=int, required=True)
    parser.add_argument("--first", type=int, required=True, help="number of the first of them")
    parser.add_argument("--runs", type=Path, required=True, help="the file that each run of a job is told to")
    parser.add_argument("--seconds", type=float, default=0.0, help="that a job with a number takes")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
