"""How long the measurements of a plan take with more workers, each on a core of its own, or two on one in turn.

    python -m benchmarks.farm_time --model sample:resnet20 --workers 1 2 4

Every plan begins with an empty store. The boards are this machine's cores, one thread each, with ONNX Runtime: the
numbers are real. Workers on the same core share its lease, so that they wait for each other.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.farm_scale import Scheduler, ended, running_scheduler
from benchmarks.stage_clock import StageClock
from benchmarks.table import line
from benchmarks.timed import build_config, empty_cache, measured_heading, timing_parser
from kronexport.backends.profile import load_target
from kronexport.farm.fleet import Terms
from kronexport.farm.jobs import BoardSpec
from kronexport.farm.worker import serve
from kronexport.measure.store import MeasurementStore, conditions_of
from kronexport.pipeline import dry_run
from kronexport.request import race_timing

COLUMNS = ("workers", "forms timed", "measuring s", "forms timed a minute", "over the first farm")


def measured(args: argparse.Namespace, farm: str | None) -> tuple[int, float]:
    """The forms that one plan times, and the seconds that this takes."""
    with empty_cache():
        config = build_config(args.model, args, goal=(args.goal,), farm=farm)
        clock = StageClock()
        dry_run(config, clock)
        clock.total()
        profile, timing = load_target(args.target), race_timing(config)
        reference = Terms(profile, args.threads, "fp32", timing)  # which the farm's boards are compared by
        conditions = conditions_of(profile.backend, args.threads, "fp32")
        with MeasurementStore() as store:
            forms = store.times(conditions).keys() - {reference.reference_pair}
            return len(forms), clock.seconds["measure"]


@contextmanager
def farm_of(count: int) -> Iterator[str]:
    """The address of a farm with so many workers."""
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        scheduler = stack.enter_context(running_scheduler())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kronexport-farm-")))
        for number in range(count):
            stack.enter_context(worker(scheduler, cores[number % len(cores)], folder))
        yield scheduler.address


@contextmanager
def worker(scheduler: Scheduler, core: int, folder: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """A worker on a core, once it serves."""
    lease = folder / f"lease-{core}"
    command = [sys.executable, "-m", "benchmarks.farm_time", "--serve", scheduler.address, str(core), str(lease)]
    with ended(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # noqa: S101  it is a pipe
        if not process.stdout.readline():
            raise RuntimeError("a worker did not start")
        yield process


def main() -> None:
    """Print the table."""
    parser = timing_parser(__doc__)
    parser.add_argument("--model", default="sample:resnet20", help="MODEL, as of kronexport build")
    parser.add_argument("--goal", default="macs<=0.5")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--serve", nargs=3, metavar=("FARM", "CORE", "LEASE"), help="internal: be a worker")
    args = parser.parse_args()
    if args.serve:
        farm, core, lease = args.serve
        os.sched_setaffinity(0, {int(core)})
        serve(farm, BoardSpec("cpu", lease=lease), tell=lambda text: print(text, flush=True))
    profile = load_target(args.target)
    print(measured_heading(f"{args.model}, goal {args.goal}", COLUMNS, profile, args.threads), flush=True)
    counts, seconds = measured(args, None)
    first = None
    print(line(["none: no farm", *cells(counts, seconds, first)]), flush=True)
    for count in args.workers:
        with farm_of(count) as address:
            counts, seconds = measured(args, address)
        print(line([str(count), *cells(counts, seconds, first)]), flush=True)
        first = first or counts / seconds


def cells(forms: int, seconds: float, first: float | None) -> list[str]:
    """Of a row; ``first``: forms a second of the first farm."""
    rate = forms / seconds
    return [str(forms), f"{seconds:.0f}", f"{60 * rate:.0f}", "" if first is None else f"{rate / first:.2f}x"]


if __name__ == "__main__":
    main()
