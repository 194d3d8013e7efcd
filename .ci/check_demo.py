"""Check what ``make demo`` wrote: a complete report, intact bundles, goals met, run.py without kronexport."""

import json
import subprocess
import sys
from pathlib import Path

from kronexport.ship.report_json import missing_reasons, read_report_json

TARGETS = ("x86-onnxruntime", "x86-openvino")


def main(out: Path) -> None:
    """Exit with an AssertionError naming what is wrong."""
    report = read_report_json(out / "report.json")
    assert set(report.targets) == set(TARGETS), sorted(report.targets)
    assert missing_reasons(report) == []
    for name, target in report.targets.items():
        assert all(check.passed is not False for check in target.verification), target.verification
        assert [check.stage for check in target.verification][-1] == "compiled"
        assert all(goal.met for goal in target.goals), target.goals
        assert target.dense.accuracy is not None
        assert target.compressed.accuracy is not None
        assert target.speedup is not None
        checked = subprocess.run([sys.executable, "-I", str(out / name / "run.py"), "check"], check=True)
        assert checked.returncode == 0
    assert "<svg" in (out / "report.html").read_text(encoding="utf-8")
    print(json.dumps({name: report.targets[name].speedup.median for name in TARGETS}))  # type: ignore[union-attr]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
