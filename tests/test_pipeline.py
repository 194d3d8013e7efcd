"""The whole line on a small network: what is shipped, what is reported, and what a second run does."""

import json
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

import kronexport
from kronexport.config import load_config
from kronexport.plan.families import FAMILIES
from kronexport.records import Check, Report
from kronexport.ship.report_json import missing_reasons, read_report_json
from kronexport.verify.outputs import run_onnx
from tests.conftest import INPUT, SHORT, TARGETS, Built, Ended, command

STAGES = ["factorized", "portable", "lowered", "simplified", "compiled"]
X86 = TARGETS[:2]
BOARD = TARGETS[2]


@pytest.fixture
def report(built: Built) -> Report:
    return read_report_json(built.folder / "report.json")


def build(network: Path, out: Path, *arguments: object) -> Ended:
    return command("build", f"{network}:net", "--input", INPUT, "--out", out, *arguments, *SHORT)


# --- calibration images -------------------------------------------------------------------------------------------


def test_factors_are_fitted_to_calibration_images(network: Path, built: Built, tmp_path: Path) -> None:
    """The outputs on them are closer to dense than by the weights alone, each site is told, and the report says so."""
    noise = np.random.default_rng(0).standard_normal((40, 3, 64, 64)).astype(np.float32)
    np.save(tmp_path / "images.npy", np.cumsum(noise, axis=3) / 8)
    ended = build(network, tmp_path / "out", "--target", "cpu", "--calibration", tmp_path / "images.npy")
    assert ended.code == 0, ended.err
    fitted = read_report_json(tmp_path / "out" / "report.json").targets["x86-onnxruntime"]
    assert "factors are fitted to 40 calibration images" in fitted.notes
    assert not any("golden data" in note for note in fitted.notes)
    alone = read_report_json(built.folder / "report.json").targets["x86-onnxruntime"]
    assert "factors are fitted to the weights alone" in alone.notes
    distances = [next(c.rel_l2 for c in target.verification if c.stage == "factorized") for target in (fitted, alone)]
    assert distances[0] is not None
    assert distances[1] is not None
    assert distances[0] < distances[1]


def test_the_rebuild_command_makes_the_same_model_again(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run where the files are, it needs nothing that the manifest does not say."""
    images = np.random.default_rng(0).standard_normal((4, 3, 64, 64)).astype(np.float32)
    np.save(network.parent / "few.npy", images)
    asked = ("--target", "cpu", "--goal", "params<=0.7", "--calibration", network.parent / "few.npy")
    assert build(network, tmp_path / "first", *asked).code == 0
    manifest = json.loads((tmp_path / "first" / "x86-onnxruntime" / "manifest.json").read_text())
    program, *words = shlex.split(manifest["rebuild"])
    assert program == "kronexport"
    monkeypatch.chdir(network.parent)
    ended = command(*words, "--out", tmp_path / "again", *SHORT)
    assert ended.code == 0, ended.err
    first, again = (tmp_path / out / "x86-onnxruntime" / "model.onnx" for out in ("first", "again"))
    assert first.read_bytes() == again.read_bytes()


# --- what is reported ---------------------------------------------------------------------------------------------


def test_every_target_is_built_and_nothing_is_null_without_a_reason(built: Built, report: Report) -> None:
    assert built.ended.code == 0, built.ended.err
    assert sorted(report.targets) == sorted(TARGETS)
    assert missing_reasons(report) == []


def test_json_is_all_that_comes_on_stdout(built: Built) -> None:
    """Though the user's factory prints, and the stages are told on stderr."""
    assert json.loads(built.ended.out) == json.loads((built.folder / "report.json").read_text(encoding="utf-8"))
    assert "a factory that talks" in built.ended.err
    assert built.ended.err.splitlines().count("verify compressed") == len(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_every_stage_agrees_with_the_one_before(report: Report, target: str) -> None:
    checks: dict[str, Check] = {check.stage: check for check in report.targets[target].verification}
    assert list(checks) == STAGES
    assert checks["factorized"].passed is None
    assert checks["factorized"].rel_l2
    for stage in STAGES[1:-1] if target == BOARD else STAGES[1:]:
        assert checks[stage].passed is True, stage
        assert checks[stage].tolerance == 1e-5


@pytest.mark.parametrize("target", TARGETS)
def test_without_a_goal_half_the_macs_are_asked_for(report: Report, target: str) -> None:
    """And reached, counted in the file that ships."""
    figures = report.targets[target]
    (goal,) = figures.goals
    assert (goal.expr, goal.met) == ("macs<=0.5", True)
    assert figures.compressed.macs <= 0.5 * figures.dense.macs
    assert goal.value == figures.compressed.macs / figures.dense.macs
    assert figures.compressed.params < figures.dense.params
    assert any(layer.method in FAMILIES for layer in figures.layers)


@pytest.mark.parametrize("target", TARGETS)
def test_the_depthwise_conv_is_skipped_with_its_reason(report: Report, target: str) -> None:
    """And the grouped one is a site like any other."""
    assert [(entry.site, entry.reason) for entry in report.targets[target].skipped] == [("2.1", "is depthwise")]
    assert [layer.site for layer in report.targets[target].layers] == ["0.0", "1.0", "2.0", "3.0"]


@pytest.mark.parametrize("target", X86)
def test_what_runs_here_is_measured(report: Report, target: str) -> None:
    figures = report.targets[target]
    assert figures.speedup is not None
    for side in (figures.dense, figures.compressed):
        assert side.latency_ms is not None
        assert side.latency_ms.n >= 5
        assert side.peak_memory_bytes
    assert figures.environment["threads"] == 1
    assert figures.protocol


def test_what_needs_the_board_is_null_with_its_reason(report: Report) -> None:
    figures = report.targets[BOARD]
    for side in (figures.dense, figures.compressed):
        assert (side.latency_ms, side.peak_memory_bytes, side.accuracy) == (None, None, None)
    assert figures.speedup is None
    assert figures.unmeasured["compressed.latency_ms"] == "not measured: no device"


# --- what is shipped ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "opset", "ir_version"), [(BOARD, 17, 8), (X86[0], 18, 8), (X86[1], 18, 8)])
def test_model_onnx_is_standard_at_the_target_s_version(built: Built, target: str, opset: int, ir_version: int) -> None:
    model = onnx.load(built.folder / target / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert model.ir_version == ir_version
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("target", TARGETS)
def test_model_onnx_computes_what_torch_exported(built: Built, target: str) -> None:
    """portable.onnx is at the exporter's opset, with the operator's definition in it: no lowering, no step-down."""
    images = golden(built, target, "input")
    (shipped,) = run_onnx(built.folder / target / "model.onnx", images).values()
    (exported,) = run_onnx(built.folder / "intermediates" / target / "portable.onnx", images).values()
    assert np.linalg.norm(shipped - exported) <= 1e-5 * np.linalg.norm(exported)
    np.testing.assert_allclose(golden(built, target, "output"), shipped, rtol=1e-4, atol=1e-6)


def test_dense_is_the_same_for_every_target(built: Built, report: Report) -> None:
    """So that targets compare."""
    figures = [(side.params, side.macs) for side in (report.targets[name].dense for name in TARGETS)]
    assert len(set(figures)) == 1
    assert (built.folder / "intermediates" / "dense.onnx").is_file()


def golden(built: Built, target: str, kind: str) -> NDArray[np.float32]:
    with np.load(built.folder / target / "golden.npz") as stored:
        (key,) = (name for name in stored.files if name.startswith(f"{kind}:"))
        return np.asarray(stored[key])


FILES = {
    X86[0]: set(),
    X86[1]: {"model.xml", "model.bin"},
    BOARD: {"build_engine.sh"},
}


@pytest.mark.parametrize("target", TARGETS)
def test_an_output_holds_the_files_of_the_contract(built: Built, target: str) -> None:
    common = {"model.onnx", "golden.npz", "manifest.json", "run.py", "SHA256SUMS"}
    assert {path.name for path in (built.folder / target).iterdir()} == common | FILES[target]
    intermediates = built.folder / "intermediates" / target
    assert {path.name for path in intermediates.iterdir()} == {
        "portable.onnx",
        "dense.onnx",
        "factors.safetensors",
        "plan.toml",
    }
    assert {path.name for path in built.folder.iterdir()} == {
        "report.html",
        "report.json",
        "config.toml",
        "intermediates",
        *TARGETS,
    }


@pytest.mark.parametrize("target", TARGETS)
def test_the_plan_is_readable_and_is_what_was_built(built: Built, report: Report, target: str) -> None:
    plan = tomllib.loads((built.folder / "intermediates" / target / "plan.toml").read_text(encoding="utf-8"))
    layers = report.targets[target].layers
    assert [(site["name"], site["method"]) for site in plan["site"]] == [(row.site, row.method) for row in layers]
    assert plan["basis"] == ("roofline" if target == "jetson-orin-nano" else "measured")


def test_no_path_of_this_machine_ships(built: Built, network: Path) -> None:
    """The exporter of torch writes stack traces into its nodes."""
    for path in built.folder.rglob("*.onnx"):
        content = path.read_bytes()
        assert b"site-packages" not in content, path
        assert str(network.parent).encode() not in content, path


def test_nodes_bear_the_name_of_their_module(built: Built, report: Report) -> None:
    """So that a profile can be read."""
    model = ir.load(built.folder / BOARD / "model.onnx")
    names = [value.name or "" for value in model.graph.initializers.values()]
    for layer in report.targets[BOARD].layers:
        assert any(name.startswith(layer.site) for name in names), (layer.site, names)


def test_the_report_page_shows_every_target(built: Built) -> None:
    page = (built.folder / "report.html").read_text(encoding="utf-8")
    for target in TARGETS:
        assert target in page


# --- built again --------------------------------------------------------------------------------------------------


def test_config_toml_asks_for_the_same_again(built: Built, network: Path) -> None:
    config = load_config(built.folder / "config.toml", {}, [])
    assert config.model == f"{network}:net"
    assert (config.input, config.target) == (INPUT, ("cpu", "openvino", "jetson"))
    assert config.goal == ("macs<=0.5",)  # the default one, which a later version may change
    assert (config.measure.seconds, config.measure.rounds, config.measure.warmup_seconds) == (0.05, 5, 0.0)
    assert config.out == built.folder


def test_a_config_builds_from_any_folder(network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its relative paths are its own; --set overrides it; what is in the folder from before is replaced."""
    toml = network.parent / "build.toml"
    toml.write_text(f'model = "network.py:net"\ninput = "{INPUT}"\ntarget = ["cpu"]\nout = "dist"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for goal in ("params<=0.9", "macs<=0.6"):
        ended = command("build", "--config", toml, "--set", 'target=["jetson"]', "--set", f'goal=["{goal}"]')
        assert ended.code == 0, ended.err
        report = read_report_json(network.parent / "dist" / "report.json")
        assert list(report.targets) == [BOARD]
        assert [entry.expr for entry in report.targets[BOARD].goals] == [goal]
    assert list(tmp_path.iterdir()) == []


def test_build_is_a_function_too(network: Path, tmp_path: Path) -> None:
    """With the same report."""
    report = kronexport.build(f"{network}:net", input=INPUT, target=("jetson",), out=tmp_path / "out")
    assert report == read_report_json(tmp_path / "out" / "report.json")


@pytest.mark.usefixtures("simplifier")
def test_two_builds_ship_the_same_model(built: Built, network: Path, tmp_path: Path) -> None:
    """Nothing in it depends on the time, the folder or chance."""
    ended = build(network, tmp_path / "out", "--target", "jetson")
    assert ended.code == 0, ended.err
    first, second = (folder / BOARD / "model.onnx" for folder in (built.folder, tmp_path / "out"))
    assert first.read_bytes() == second.read_bytes()


def test_a_dry_run_plans_and_writes_nothing(network: Path, tmp_path: Path, report: Report) -> None:
    """The plan is the one that a build makes."""
    ended = build(network, tmp_path / "out", "--target", "jetson", "--dry-run", "--json")
    assert ended.code == 0, ended.err
    plan = json.loads(ended.out)
    assert list(tmp_path.iterdir()) == []
    assert [(site["site"], site["lowering"]) for site in plan["targets"][BOARD]] == [
        (layer.site, layer.lowering) for layer in report.targets[BOARD].layers
    ]
    assert plan["skipped"] == [{"site": "2.1", "reason": "is depthwise"}]
    assert "plan for jetson-orin-nano" in build(network, tmp_path / "out", "--target", "jetson", "--dry-run").out


def test_the_command_is_installed(network: Path, tmp_path: Path) -> None:
    """``python -m kronexport`` ends in the exit code, with the message on stderr and nothing on stdout."""
    line = [sys.executable, "-m", "kronexport", "build", f"{network}:nett", "--out", str(tmp_path / "out")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'net'?" in done.stderr


def test_a_batch_and_a_tensor_returned_twice_go_through(tmp_path: Path) -> None:
    """Two outputs stay two where they are the same tensor; MACs and golden data count the batch."""
    (tmp_path / "twice.py").write_text(TWICE)
    ended = command("build", f"{tmp_path / 'twice.py'}:net", "--input", "2x3x16x16", "--out", tmp_path / "out", *SHORT)
    assert ended.code == 0, ended.err
    report = read_report_json(tmp_path / "out" / "report.json").targets["x86-onnxruntime"]
    assert report.dense.macs == 2 * 16 * 16 * (16 * 3 * 9 + 16 * 16 * 9)
    model = onnx.load(tmp_path / "out" / "x86-onnxruntime" / "model.onnx")
    dense = onnx.load(tmp_path / "out" / "intermediates" / "dense.onnx")
    assert len({value.name for value in model.graph.output}) == 2
    assert [value.name for value in model.graph.output] == [value.name for value in dense.graph.output]


TWICE = """
import torch

class Twice(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 16, 3, padding=1)
        self.second = torch.nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        y = self.second(torch.relu(self.first(x)))
        return y, y

def net():
    torch.manual_seed(0)
    return Twice()
"""


def test_included_linear_layers_are_factorized(tmp_path: Path) -> None:
    """A goal on params that the convs alone cannot reach is met, on rows and on channels-last pixels alike."""
    (tmp_path / "mostly_linear.py").write_text(MOSTLY_LINEAR)
    common = (f"{tmp_path / 'mostly_linear.py'}:net", "--input", "1x3x16x16", "--goal", "params<=0.4", *SHORT)
    refused = command("build", *common, "--out", tmp_path / "refused")
    assert refused.code == 5
    assert "cannot be met" in refused.err
    ended = command("build", *common, "--include", "*", "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    report = read_report_json(tmp_path / "out" / "report.json").targets["x86-onnxruntime"]
    methods = {layer.site: layer.method for layer in report.layers}
    assert (methods["pixels"], methods["rows"]) == ("gkpd", "gkpd")
    assert report.compressed.params <= 0.4 * report.dense.params
    assert all(check.passed for check in report.verification if check.tolerance is not None)


MOSTLY_LINEAR = """
import torch

class MostlyLinear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 16, 3, padding=1)
        self.pixels = torch.nn.Linear(16, 96)
        self.rows = torch.nn.Linear(96, 16, bias=False)

    def forward(self, x):
        y = torch.relu(self.pixels(self.conv(x).permute(0, 2, 3, 1)))
        return self.rows(y.mean((1, 2)))

def net():
    torch.manual_seed(0)
    return MostlyLinear()
"""
