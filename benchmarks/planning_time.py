"""How long a plan takes, of a network that is seen for the first time and once more.

    python -m benchmarks.planning_time --target cpu --threads 1 --out FOLDER [NAME ...]

Cold: the cache is empty. Warm: the same again. Each plan is made in a process of its own, whose start does not count.
Finished rows are kept in FOLDER, so the command resumes.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from benchmarks.stage_clock import StageClock
from benchmarks.table import Rows, line
from benchmarks.timed import build_config, empty_cache, measured_heading, timing_parser
from kronexport.backends.profile import load_target
from kronexport.errors import KronexportError
from kronexport.measure.store import MeasurementStore, conditions_of
from kronexport.pipeline import dry_run

NETWORKS = "resnet18", "resnet34", "resnet50"
GOALS = "macs<=0.25", "latency<=0.5"
COLUMNS = (
    "network",
    "goal",
    "layers",
    "forms timed",
    "cold: scan s",
    "forms s",
    "rest s",
    "total s",
    "warm: scan s",
    "forms s",
    "rest s",
    "total s",
)


@dataclass(frozen=True, slots=True)
class Planned:
    """``layers`` that could be factorized; models in the store afterwards; seconds of the stages that tell of them."""

    layers: int
    known: int
    scan: float
    measure: float
    total: float


def planned(name: str, goal: str, args: argparse.Namespace) -> Planned:
    """One plan, made now.

    Raises:
        KronexportError: as ``dry_run``.
    """
    profile = load_target(args.target)
    config = build_config(f"sample:{name}", args, goal=(goal,))
    clock = StageClock()
    found = dry_run(config, clock)
    total = clock.total()
    conditions = conditions_of(profile.backend, args.threads, "fp32")
    with MeasurementStore() as store:
        known = len(store.times(conditions)) + len(store.failures(conditions))
    return Planned(len(found.project.survey.sites), known, clock.seconds["scan"], clock.seconds["measure"], total)


def cold_and_warm(name: str, goal: str, args: argparse.Namespace) -> list[str]:
    """The row of one network and goal."""
    with empty_cache():
        first, second = (_in_fresh_process(name, goal, args) for _ in range(2))
    return row(name, goal, first, second)


def row(name: str, goal: str, cold: Planned, warm: Planned) -> list[str]:
    """One line of the table."""
    timed = str(cold.known) if warm.known == cold.known else f"{cold.known} + {warm.known - cold.known}"
    return [name, f"`{goal}`", str(cold.layers), timed, *_seconds(cold), *_seconds(warm)]


def _seconds(one: Planned) -> list[str]:
    rest = one.total - one.scan - one.measure
    return [f"{seconds:.0f}" for seconds in (one.scan, one.measure, rest, one.total)]


def _in_fresh_process(name: str, goal: str, args: argparse.Namespace) -> Planned:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(planned, name, goal, args).result()


def main() -> None:
    """Exit code 1 if some network could not be planned."""
    parser = timing_parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=NETWORKS, help="default: all")
    parser.add_argument("--goal", action="append", help=f"default: {' and '.join(GOALS)}, one at a time")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished rows")
    args = parser.parse_args()
    profile = load_target(args.target)
    print(measured_heading("plans of samples", COLUMNS, profile, args.threads), flush=True)
    rows, failed = Rows(args.out / f"planning_time-{profile.name}-{args.threads}.json"), 0
    for name in args.names or NETWORKS:
        for goal in args.goal or GOALS:
            try:
                rows.print(f"{name} {goal}", partial(cold_and_warm, name, goal, args))
            except KronexportError as error:
                failed += 1
                print(line([name, f"`{goal}`", f"exit code {error.exit_code}: {error}"]), flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
