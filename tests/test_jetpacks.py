"""One network for every JetPack: the opset that its TensorRT reads, the same outputs, the script for the board."""

from pathlib import Path

import onnx
import pytest

from kronexport.backends.profile import load_target
from kronexport.records import Report
from kronexport.ship.report_json import read_report_json
from tests.conftest import INPUT, SHORT, command

JETPACKS = {
    "jetson-nano@jp4.6": (13, 7),
    "jetson@jp5.1": (17, 8),
    "jetson@jp6.0": (17, 8),
    "jetson@jp6.2": (20, 9),
    "jetson@jp7.2": (20, 9),
}


@pytest.fixture(scope="module")
def built(network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output for all of them."""
    out = tmp_path_factory.mktemp("jetpacks") / "out"
    targets = [word for name in JETPACKS for word in ("--target", name)]
    ended = command("build", f"{network}:net", "--input", INPUT, *targets, "--out", out, *SHORT)
    assert ended.code == 0, ended.err
    return out


@pytest.fixture(scope="module")
def report(built: Path) -> Report:
    return read_report_json(built / "report.json")


@pytest.mark.parametrize(("asked", "opset", "ir_version"), [(name, *form) for name, form in JETPACKS.items()])
def test_each_gets_what_its_parser_reads_and_the_same_outputs(
    built: Path, report: Report, asked: str, opset: int, ir_version: int
) -> None:
    """A whole bundle: stepped down from what torch exports, or at its opset, and checked stage by stage."""
    profile = load_target(asked)
    model = onnx.load(built / profile.name / "model.onnx")
    versions = {entry.domain: entry.version for entry in model.opset_import}
    written = versions.pop("")
    assert (written <= opset, model.ir_version <= ir_version, versions) == (True, True, {})
    assert written == min(opset, 18), "torch exports 18, which is never raised"
    found = report.targets[profile.name]
    checks = {check.stage: check for check in found.verification}
    assert all(checks[stage].passed for stage in ("portable", "lowered", "simplified"))
    assert found.compressed.latency_ms is None
    script = (built / profile.name / "build_engine.sh").read_text(encoding="utf-8")
    assert f"tensorrt={profile.runtime.version}\n" in script
