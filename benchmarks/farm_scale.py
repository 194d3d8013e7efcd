"""What dask's scheduler costs a farm of many boards. The boards are simulated, the scheduler and its workers are real.

    python -m benchmarks.farm_scale --boards 1000 --jobs 10000 [--hosts 20] [--bytes 0] [--listed]

A scheduler in a process of its own; HOSTS processes of BOARDS / HOSTS dask workers each, every worker with one thread
and one ``board:simulated``, as ``kronexport farm worker`` has it. A job is a function that returns at once: it sleeps
not, and measures nothing. As many jobs are under way as there are boards. Hosts give way to the scheduler (``nice``),
which has a core of its own on a farm. In a second run one host is killed in the middle (5 % of the boards where there
are 20). ``--bytes`` of seeded noise travel with each job, as models do; ``--listed`` names the boards that a job may
run on, as where one was set aside.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import dask
import distributed
from distributed import Client, Worker, as_completed

from kronexport.farm.farm import QUIET, resource_of

PROFILE: Final = "simulated"
COLUMNS: Final = (
    "boards",
    "jobs",
    "payload kB",
    "boards lost",
    "jobs lost",
    "jobs run twice",
    "ms a job",
    "scheduler: CPU ms a job",
    "MB empty",
    "MB with boards",
    "MB at most",
)
GIVES_WAY: Final = "10"
_POLL_SECONDS: Final = 0.2
_START_SECONDS: Final = 300.0


def simulated_job(number: int, payload: bytes) -> dict[str, Any]:
    """A job of no duration on no board: nothing in what it returns was measured."""
    return {"simulated": True, "number": number, "bytes": len(payload), "worker": distributed.get_worker().name}


@dataclass(frozen=True)
class Flood:
    """How so many jobs went; bytes of the scheduler's resident memory."""

    boards: int
    jobs: int
    payload: int
    boards_lost: int
    jobs_lost: int
    run_twice: int
    seconds: float
    cpu_seconds: float
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
    if arguments.host:
        asyncio.run(_host(arguments.host, arguments.boards, arguments.first))
        return
    from benchmarks.table import head, line  # noqa: PLC0415  loads torch, of which hosts have no need

    made = f"{datetime.now(UTC):%Y-%m-%d}; Python {platform.python_version()}, distributed {version('distributed')}"
    listed = "jobs name their boards" if arguments.listed else "jobs name the kind of board alone"
    print(f"{made}; simulated jobs of no duration on simulated boards; {arguments.hosts} hosts; {listed}\n")
    print(head(COLUMNS))
    for killed in (False, True):
        flood = flooded(arguments, killed=killed)
        print(line(row(flood)), flush=True)


def flooded(arguments: argparse.Namespace, *, killed: bool) -> Flood:
    """All jobs through a scheduler of their own, with or without a host that is killed in the middle."""
    with ExitStack() as stack:
        scheduler = stack.enter_context(running_scheduler())
        empty = scheduler.memory
        each = arguments.boards // arguments.hosts
        hosts = [stack.enter_context(_process(scheduler, each, host * each)) for host in range(arguments.hosts)]
        stack.enter_context(dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}))
        client = stack.enter_context(Client(scheduler.address, set_as_default=False))
        client.wait_for_workers(each * arguments.hosts, timeout=_START_SECONDS)
        staffed, cpu, begun = scheduler.memory, scheduler.cpu_seconds, time.monotonic()
        addresses = list(client.scheduler_info()["workers"]) if arguments.listed else None
        middle = arguments.jobs // 2 if killed else -1
        numbers: list[int] = []
        for done, number in enumerate(_results(client, arguments, addresses)):
            numbers.append(number)
            if done == middle:
                os.kill(hosts[0].pid, signal.SIGKILL)
        seconds = time.monotonic() - begun
        return Flood(
            boards=each * arguments.hosts,
            jobs=arguments.jobs,
            payload=arguments.bytes,
            boards_lost=each if killed else 0,
            jobs_lost=arguments.jobs - len(set(numbers)),
            run_twice=len(numbers) - len(set(numbers)),
            seconds=seconds,
            cpu_seconds=scheduler.cpu_seconds - cpu,
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
        flood.boards_lost,
        flood.jobs_lost,
        flood.run_twice,
    )
    times = (1000 * seconds / flood.jobs for seconds in (flood.seconds, flood.cpu_seconds))
    return [*map(str, counts), *(f"{value:.2f}" for value in times), *megabytes]


def _results(client: Client, arguments: argparse.Namespace, addresses: list[str] | None) -> Iterator[int]:
    """The numbers of the jobs as they come back; as many are under way as there are boards."""
    noise = random.Random(0)  # noqa: S311  no secret
    payload = noise.randbytes(arguments.bytes)

    def submitted(number: int) -> "distributed.Future[dict[str, Any]]":
        resources = {resource_of(PROFILE): 1}
        return client.submit(simulated_job, number, payload, resources=resources, workers=addresses, pure=False)

    waiting = iter(range(arguments.jobs))
    first = [submitted(number) for _, number in zip(range(arguments.boards), waiting, strict=False)]
    pending = as_completed(first, loop=client.loop, with_results=True)
    for _, result in pending:
        if not result["simulated"]:
            raise AssertionError(result)
        yield int(result["number"])
        following = next(waiting, None)
        if following is not None:
            pending.add(submitted(following))


async def _host(address: str, boards: int, first: int) -> None:
    """So many workers in this process, until it is ended."""
    with dask.config.set(QUIET):
        workers = [
            Worker(
                address,
                nthreads=1,
                name=f"{PROFILE}-{first + number}",
                resources={resource_of(PROFILE): 1},
                memory_limit=0,
            )
            for number in range(boards)
        ]
        await asyncio.gather(*workers)
        await asyncio.gather(*(worker.finished() for worker in workers))


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
def _process(scheduler: Scheduler, boards: int, first: int) -> "Iterator[subprocess.Popen[bytes]]":
    options = ["--host", scheduler.address, "--boards", str(boards), "--first", str(first)]
    with ended(["nice", "-n", GIVES_WAY, sys.executable, "-m", "benchmarks.farm_scale", *options]) as process:
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
    parser.add_argument("--listed", action="store_true", help="each job names the workers that it may run on")
    parser.add_argument("--host", help="internal: the scheduler that this process's workers serve")
    parser.add_argument("--first", type=int, default=0, help="internal: number of the first of them")
    return parser


if __name__ == "__main__":
    main()
