"""What dask's scheduler costs a farm of many boards. The boards are simulated; scheduler, workers and client are real.

    python -m benchmarks.farm_scale --boards 1000 --jobs 10000 [--hosts 20] [--bytes 0] [--seconds 0] [--runs 1]

A scheduler in a process of its own; HOSTS processes of BOARDS / HOSTS dask workers each, every worker with one thread
and one ``board:simulated``, as ``kronexport farm worker`` has it. The client is a plan's: a thread a board, which has
its races run by the fleet (``farm.fleet``), each followed by the reference. A job takes ``--seconds``, and measures
nothing. Hosts give way to the scheduler (``nice``), which has a core of its own on a farm. In each second run one host
is killed in the middle (5 % of the boards where there are 20). ``--bytes`` of seeded noise travel with each job, as
models do.

Workers tell the scheduler that they are there whether they have jobs or not. That upkeep is measured before the first
job; what the scheduler uses beyond it is what jobs cost it, where hosts keep up: let jobs take so long that they do.
"Boards at work" is the part of all boards' time, those that were killed included, in which they had a job.
"""

import argparse
import json
import logging
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Executor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks.simulated_boards import PROFILE
from benchmarks.table import head, line
from kronexport.backends.profile import load_target
from kronexport.errors import BoardError
from kronexport.farm.farm import Farm
from kronexport.farm.fleet import Fleet, Terms
from kronexport.measure.lanes import lanes
from kronexport.measure.race import RaceTiming

log = logging.getLogger("kronexport")

COLUMNS: Final = (
    "boards",
    "jobs",
    "payload kB",
    "a job takes s",
    "boards lost",
    "jobs lost",
    "jobs run twice",
    "boards at work %",
    "ms a job",
    "scheduler: CPU ms a job",
    "upkeep: % of a core",
    "without it: CPU ms a job",
    "MB empty",
    "MB with boards",
    "MB at most",
)
GIVES_WAY: Final = "10"
_POLL_SECONDS: Final = 0.2
_START_SECONDS: Final = 300.0
_SETTLE_SECONDS: Final = 5.0
_UPKEEP_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Flood:
    """How so many jobs went; bytes of the scheduler's resident memory.

    ``upkeep`` is the part of a core that the scheduler takes for the boards without a job, ``takes`` a job's seconds.
    """

    boards: int
    jobs: int
    payload: int
    takes: float
    boards_lost: int
    jobs_lost: int
    run_twice: int
    seconds: float
    cpu_seconds: float
    upkeep: float
    empty: int
    staffed: int
    most: int


@dataclass(frozen=True)
class Scheduler:
    """A running scheduler."""

    address: str
    pid: int

    @property
    def memory(self) -> int:
        return 1024 * int(_status(self.pid, "VmRSS"))

    @property
    def peak(self) -> int:
        return 1024 * int(_status(self.pid, "VmHWM"))

    @property
    def cpu_seconds(self) -> float:
        fields = Path("/proc", str(self.pid), "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print a row without and a row with a host that is killed."""
    arguments = _parser().parse_args()
    made = f"{datetime.now(UTC):%Y-%m-%d}; Python {platform.python_version()}, distributed {version('distributed')}"
    print(f"{made}; simulated jobs on simulated boards; {arguments.hosts} hosts\n")
    print(head(COLUMNS))
    for killed in (False, True) * arguments.runs:
        flood = flooded(arguments, killed=killed)
        print(line(row(flood)), flush=True)


def flooded(arguments: argparse.Namespace, *, killed: bool) -> Flood:
    """All jobs through a scheduler of their own, with or without a host that is killed in the middle."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kronexport-scale-")))
        os.environ["KRONEXPORT_CACHE"] = str(folder / "cache")  # no simulated time in the user's store
        runs = folder / "runs"
        scheduler = stack.enter_context(running_scheduler())
        empty = scheduler.memory
        each = arguments.boards // arguments.hosts
        boards = each * arguments.hosts
        kind = ["--boards", str(each), "--runs", str(runs), "--seconds", str(arguments.seconds)]
        hosts = [stack.enter_context(_process(scheduler, kind, host * each)) for host in range(arguments.hosts)]
        farm = stack.enter_context(Farm(scheduler.address))
        _wait_for(farm, boards)
        terms = Terms(load_target("cpu").model_copy(update={"name": PROFILE}), 1, "fp32", RaceTiming())
        fleet = Fleet(farm, terms)
        upkeep = _upkeep(scheduler)
        staffed, cpu, begun = scheduler.memory, scheduler.cpu_seconds, time.monotonic()
        middle = arguments.jobs // 2 if killed else -1
        numbers: list[int] = []
        pool = stack.enter_context(lanes(boards))
        for done, number in enumerate(_results(pool, fleet, arguments, folder)):
            numbers.append(number)
            if done == middle:
                os.kill(hosts[0].pid, signal.SIGKILL)
        seconds = time.monotonic() - begun
        run = runs.read_text(encoding="utf-8").split()
        return Flood(
            boards=boards,
            jobs=arguments.jobs,
            payload=arguments.bytes,
            takes=arguments.seconds,
            boards_lost=boards - len(farm.addresses()),
            jobs_lost=arguments.jobs - len(set(numbers)),
            run_twice=len(run) - len(set(run)),
            seconds=seconds,
            cpu_seconds=scheduler.cpu_seconds - cpu,
            upkeep=upkeep,
            empty=empty,
            staffed=staffed,
            most=scheduler.peak,
        )


def row(flood: Flood) -> list[str]:
    """The cells of ``COLUMNS``."""
    megabytes = (f"{value / 1e6:.0f}" for value in (flood.empty, flood.staffed, flood.most))
    counts = (
        flood.boards,
        flood.jobs,
        f"{flood.payload / 1000:g}",
        f"{flood.takes:g}",
        flood.boards_lost,
        flood.jobs_lost,
        flood.run_twice,
    )
    jobs_cpu = flood.cpu_seconds - flood.upkeep * flood.seconds
    at_work = 100 * flood.jobs * flood.takes / (flood.boards * flood.seconds)
    wall, cpu, beyond = (f"{1000 * each / flood.jobs:.2f}" for each in (flood.seconds, flood.cpu_seconds, jobs_cpu))
    return [*map(str, counts), f"{at_work:.0f}", wall, cpu, f"{100 * flood.upkeep:.1f}", beyond, *megabytes]


def _upkeep(scheduler: Scheduler) -> float:
    """The part of a core that it takes for boards that have no job."""
    time.sleep(_SETTLE_SECONDS)
    cpu, begun = scheduler.cpu_seconds, time.monotonic()
    time.sleep(_UPKEEP_SECONDS)
    return (scheduler.cpu_seconds - cpu) / (time.monotonic() - begun)


def _wait_for(farm: Farm, boards: int) -> None:
    until = time.monotonic() + _START_SECONDS
    while (there := len(farm.addresses())) < boards:
        if time.monotonic() > until:
            raise RuntimeError(f"{there} of {boards} boards came within {_START_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)


def _results(pool: Executor, fleet: Fleet, arguments: argparse.Namespace, folder: Path) -> Iterator[int]:
    """The numbers of the jobs as they come back, but for those that are lost; ``pool`` has a thread a board."""
    noise = folder / "noise"
    noise.write_bytes(random.Random(0).randbytes(arguments.bytes))  # noqa: S311  no secret
    job = {"task": "race", "models": [{"name": "noise", "path": str(noise)}]}

    def run(number: int) -> int:
        result = fleet.run_agent({**job, "number": number}, timeout_seconds=arguments.seconds + 1.0)
        if result["number"] != number or result["payload"] != arguments.bytes:
            raise AssertionError(f"job {number} came back as {result}")
        return number

    for done in as_completed([pool.submit(run, number) for number in range(arguments.jobs)]):
        try:
            yield done.result()
        except BoardError as error:
            log.warning("%s", error)


@contextmanager
def running_scheduler() -> Iterator[Scheduler]:
    """A scheduler in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="kronexport-scale-") as folder:
        told = Path(folder, "scheduler.json")
        options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(told)]
        with ended([sys.executable, "-m", "distributed.cli.dask_scheduler", *options]) as process:
            while not (told.exists() and told.read_text(encoding="utf-8")):
                if process.poll() is not None:
                    raise RuntimeError("the scheduler did not start")
                time.sleep(_POLL_SECONDS)
            yield Scheduler(json.loads(told.read_text(encoding="utf-8"))["address"], process.pid)


@contextmanager
def _process(scheduler: Scheduler, kind: list[str], first: int) -> "Iterator[subprocess.Popen[bytes]]":
    options = [scheduler.address, *kind, "--first", str(first)]
    with ended(["nice", "-n", GIVES_WAY, sys.executable, "-m", "benchmarks.simulated_boards", *options]) as process:
        yield process


@contextmanager
def ended(command: list[str], stdout: int = subprocess.DEVNULL) -> "Iterator[subprocess.Popen[bytes]]":
    """A process that is killed at the end."""
    process = subprocess.Popen(command, stdout=stdout, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _status(pid: int, field: str) -> str:
    lines = Path("/proc", str(pid), "status").read_text(encoding="utf-8").splitlines()
    return next(text.split()[1] for text in lines if text.startswith(f"{field}:"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=10000)
    parser.add_argument("--hosts", type=int, default=20, help="processes that the workers are in")
    parser.add_argument("--bytes", type=int, default=0, help="that travel with each job")
    parser.add_argument("--seconds", type=float, default=0.0, help="that each job takes")
    parser.add_argument("--runs", type=int, default=1, help="of each kind, in turn")
    return parser


if __name__ == "__main__":
    main()
