"""Build every sample network for both x86 runtimes at its own input size, and print the table.

    python -m benchmarks.all_samples --out FOLDER [NAME ...]

A sample that was built before is read from FOLDER, so the command resumes.
"""

import argparse
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from kronexport.errors import KronexportError
from kronexport.records import Report, TargetReport
from kronexport.ship.report_json import read_report_json
from sample_models.registry import SAMPLES

TARGETS = ("cpu", "openvino")
GOAL = "macs<=0.5"
HEADER = (
    "| sample | target | params | MACs | bytes | sites | rel. L2 | speed-up (95 %) | verdict | build |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def report_of(name: str, out: Path) -> tuple[Report, str]:
    """The sample's report and how long its build took, built now or before."""
    finished = out / name / "report.json"
    if finished.is_file():
        return read_report_json(finished), "before"
    from kronexport.pipeline import build  # noqa: PLC0415  loads torch

    started = time.monotonic()
    report = build(f"sample:{name}", target=TARGETS, goal=(GOAL,), out=out / name)
    return report, f"{time.monotonic() - started:.0f} s"


def row(name: str, target_name: str, target: TargetReport, took: str) -> str:
    """One line of the table; ratios are compressed / dense."""
    ratios = [getattr(target.compressed, key) / getattr(target.dense, key) for key in ("params", "macs", "bytes")]
    factorized = sum(layer.method != "dense" for layer in target.layers)
    worst = max(
        check.rel_l2 for check in target.verification if check.tolerance is not None and check.rel_l2 is not None
    )
    assert target.speedup is not None  # noqa: S101  both targets run here
    low, high = target.speedup.ci95
    cells = [
        name,
        target_name,
        *(f"{ratio:.3f}x" for ratio in ratios),
        f"{factorized} of {len(target.layers)}",
        f"{worst:.1e}",
        f"{target.speedup.median:.2f}x ({low:.2f} to {high:.2f})",
        target.speedup.verdict,
        took,
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Exit code 1 if a sample could not be built."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(SAMPLES), help="samples; default: all")
    parser.add_argument("--out", type=Path, required=True, help="one output folder a sample goes below it")
    args = parser.parse_args()
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnx", "onnxruntime", "openvino"))
    print(f"{datetime.now(UTC):%Y-%m-%d}; Python {platform.python_version()}, {libraries}; goal {GOAL}\n\n{HEADER}")
    failed = 0
    for name in args.names:
        try:
            report, took = report_of(name, args.out)
        except KronexportError as error:
            failed += 1
            print(f"| {name} | failed: {error} |", flush=True)
            continue
        for target_name, target in report.targets.items():
            print(row(name, target_name, target, took), flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
