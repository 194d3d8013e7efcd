"""Builds that ask for half of the time: whether they get it, and what the others say instead.

    python -m benchmarks.latency_goals --target cpu --threads 1 --out FOLDER [NAME ...]

Every build begins with an empty cache. Rows are kept in FOLDER, so the command resumes with the network that it was
stopped at.
"""

import argparse
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.stage_clock import StageClock
from benchmarks.table import Rows, line
from benchmarks.timed import build_config, empty_cache, measured_heading, timing_parser
from kronexport.backends.profile import load_target
from kronexport.errors import KronexportError
from kronexport.pipeline import run
from kronexport.records import TargetReport

GOAL = "latency<=0.5"
COLUMNS = (
    "network",
    "params",
    "MACs",
    "bytes",
    "latency (95 %)",
    "goal",
    "verdict",
    "planning s",
    "build s",
    "exit code",
)
PLANNED = "lower dense"
"""The stage after the plan."""


@dataclass(frozen=True, slots=True)
class Network:
    """MODEL of the command, and ``--input`` where it does not bring its own."""

    model: str
    input: str | None = None


NETWORKS = {
    "resnet18": Network("sample:resnet18"),
    "resnet50": Network("sample:resnet50"),
    "vgg11": Network("sample:vgg11"),
    "edsr64": Network("benchmarks.edsr64:edsr64", "1x3x128x128"),
    "mobilenetv2": Network("sample:mobilenetv2"),
    "seresnet50": Network("sample:seresnet50"),
}
"""The first four are asked to meet the goal; the others say what they reach."""


def row(name: str, target: TargetReport, exit_code: int, planning: float, whole: float) -> list[str]:
    """One line of the table; ratios are compressed / dense, ``planning`` and ``whole`` seconds."""
    (goal,) = target.goals
    ratios = [getattr(target.compressed, key) / getattr(target.dense, key) for key in ("params", "macs", "bytes")]
    assert target.speedup is not None  # noqa: S101  both targets run here
    low, high = target.speedup.ci95
    return [
        name,
        *(f"{ratio:.3f}x" for ratio in ratios),
        f"{1 / target.speedup.median:.3f}x ({1 / high:.3f} to {1 / low:.3f})",
        "met" if goal.met else "missed",
        target.speedup.verdict,
        f"{planning:.0f}",
        f"{whole:.0f}",
        str(exit_code),
    ]


def built(name: str, args: argparse.Namespace, out: Path) -> list[str]:
    """The network's row, after a build into ``out``.

    Raises:
        KronexportError: nothing was built.
    """
    network = NETWORKS[name]
    config = build_config(network.model, args, input=network.input, goal=(GOAL,), out=out)
    with empty_cache():
        clock = StageClock()
        outcome = run(config, clock)
        whole = clock.total()
    (target,) = outcome.report.targets.values()
    code = 0 if outcome.failure is None else outcome.failure.exit_code
    return row(name, target, code, clock.started[PLANNED], whole)


def main() -> None:
    """Exit code 1 if nothing was built of some network."""
    parser = timing_parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=list(NETWORKS), help="default: all")
    parser.add_argument("--out", type=Path, required=True, help="the builds and finished rows go below it")
    args = parser.parse_args()
    profile = load_target(args.target)
    setting = f"{profile.name}-{args.threads}"
    print(measured_heading(f"goal {GOAL}", COLUMNS, profile, args.threads), flush=True)
    rows, failed = Rows(args.out / f"latency_goals-{setting}.json"), 0
    for name in args.names or NETWORKS:
        try:
            rows.print(name, partial(built, name, args, args.out / f"{name}-{setting}"))
        except KronexportError as error:
            failed += 1
            print(line([name, f"exit code {error.exit_code}: {error}"]), flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
