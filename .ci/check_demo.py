"""Check what ``make demo`` wrote: a complete report, intact bundles, goals met, run.py without kronexport."""

import json
import subprocess
import sys
from pathlib import Path

from kronexport.ship.report_json import read_report_json

TARGETS = ("x86-onnxruntime", "x86-openvino")


def main(out: Path) -> None:
    """Exit with an AssertionError naming what is wrong."""
    report = read_report_json(out / "report.json")
    assert set(report.targets) == set(TARGETS), sorted(report.targets)
    for name, target in report.targets.items():
        stages = {check.stage: check.passed for check in target.verification}
        exact = dict.fromkeys(("portable", "lowered", "simplified", "compiled"), True)
        assert stages == {"factorized": None, **exact}, stages
        assert all(goal.met for goal in target.goals), target.goals
        assert target.dense.accuracy is not None
        assert target.compressed.accuracy is not None
        assert target.speedup is not None
        subprocess.run([sys.executable, "-I", str(out / name / "run.py"), "check"], check=True)
    assert "<svg" in (out / "report.html").read_text(encoding="utf-8")
    print(json.dumps({name: report.targets[name].speedup.median for name in TARGETS}))  # type: ignore[union-attr]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
