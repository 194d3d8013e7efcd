"""Devices that are not this machine: built for and verified here, never measured here."""

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from kronexport import instruments
from kronexport.backends.profile import load_target
from kronexport.records import TargetReport
from kronexport.ship.report_json import missing_reasons, read_report_json
from kronexport.stages import measure, realize
from kronexport.survey.model import load_model
from kronexport.verify.outputs import Outputs, run_onnx
from tests.conftest import INPUT, SHORT, Ended, command

CPUS = ("rpi5", "intel-n100")
JETPACKS = ("jetson-nano@jp4.6", "jetson@jp5.1", "jetson", "jetson@jp6.2", "jetson@jp7.2")
EXPORTED = 18
"""The opset that torch's exporter writes: it is lowered for a target that reads less, and never raised."""

NOT_MEASURED = "not measured: no device"
WITHOUT_RUNTIME = """
import runpy, sys
sys.modules["onnxruntime"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
EVALUATOR = """
def score(predictor):
    raise AssertionError("nothing is scored on another machine")
"""


@pytest.fixture(scope="module", autouse=True)
def nothing_is_timed() -> Iterator[None]:
    """Whatever would be measured fails the build, and onnxsim is left out, which saves time."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured on a machine that is not the device")

    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (instruments, "measure_forms"),
            (instruments, "measured_costs"),
            (measure, "measure_pair"),
        ):
            patch.setattr(module, name, refuse)
        for module, name in ((measure, "bench_models"), (realize, "score_engine")):
            patch.setattr(module, name, refuse)
        yield


def build(network: Path, out: Path, *arguments: object) -> Ended:
    return command("build", f"{network}:net", "--input", INPUT, "--out", out, *arguments, *SHORT)


@pytest.fixture(scope="module")
def shipped(network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output for every device of this file, by the default goal and with an evaluator; only to be read."""
    out = tmp_path_factory.mktemp("shipped") / "out"
    (network.parent / "evaluator.py").write_text(EVALUATOR, encoding="utf-8")
    targets = [word for name in (*CPUS, *JETPACKS) for word in ("--target", name)]
    ended = build(network, out, *targets, "--evaluate", f"{network.parent / 'evaluator.py'}:score")
    assert ended.code == 0, ended.err
    return out


def reported(out: Path, target: str) -> TargetReport:
    return read_report_json(out / "report.json").targets[target]


# --- CPUs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", CPUS)
def test_a_cpu_elsewhere_is_verified_but_not_measured(shipped: Path, target: str) -> None:
    """Each stage down to the engine is compared here; time, memory and accuracy are null with their reason."""
    found = reported(shipped, target)
    checks = {check.stage: check for check in found.verification}
    assert list(checks) == ["factorized", "portable", "lowered", "simplified", "compiled"]
    assert all(check.passed for stage, check in checks.items() if stage != "factorized")
    for side, figures in (("dense", found.dense), ("compressed", found.compressed)):
        for key in ("latency_ms", "peak_memory_bytes", "build_peak_memory_bytes", "accuracy"):
            assert getattr(figures, key) is None
            assert found.unmeasured[f"{side}.{key}"] == NOT_MEASURED
    assert (found.speedup, found.unmeasured["speedup"]) == (None, NOT_MEASURED)
    assert (found.environment, found.protocol) == ({}, {})
    assert missing_reasons(read_report_json(shipped / "report.json")) == []
    assert [(goal.expr, goal.met) for goal in found.goals] == [("macs<=0.5", True)]


@pytest.mark.parametrize(("target", "runtime"), [("rpi5", "onnxruntime"), ("intel-n100", "openvino")])
def test_the_report_says_where_the_engine_was_verified(shipped: Path, target: str, runtime: str) -> None:
    (note,) = (note for note in reported(shipped, target).notes if "verified" in note)
    assert note.startswith(f"the engine was verified in {runtime} ")
    assert "not on the device" in note


@pytest.mark.parametrize("target", CPUS)
def test_a_cpu_elsewhere_is_planned_by_its_roofline(shipped: Path, target: str) -> None:
    plan = tomllib.loads((shipped / "intermediates" / target / "plan.toml").read_text(encoding="utf-8"))
    assert plan["basis"] == "roofline"
    assert "lowerings are chosen by the target's roofline" in reported(shipped, target).notes


@pytest.mark.parametrize(
    ("target", "machine", "compiled"),
    [("rpi5", ["aarch64"], set()), ("intel-n100", ["x86_64", "AMD64"], {"model.xml", "model.bin"})],
)
def test_the_bundle_of_a_cpu_elsewhere_is_complete(
    shipped: Path, target: str, machine: list[str], compiled: set[str]
) -> None:
    files = {path.name for path in (shipped / target).iterdir()}
    assert files == {"model.onnx", "golden.npz", "manifest.json", "run.py", "SHA256SUMS"} | compiled
    manifest = json.loads((shipped / target / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["requires"]["machine"] == machine
    assert (manifest["opset"], manifest["threads"], manifest["protocol"]) == (18, 4, {})


def test_a_bundle_of_another_architecture_is_refused_before_anything_is_loaded(shipped: Path, tmp_path: Path) -> None:
    """By its own run.py, though the runtime cannot even be imported, and by ``kronexport verify``."""
    bundle = shutil.copytree(shipped / "rpi5", tmp_path / "rpi5")
    line = [sys.executable, "-c", WITHOUT_RUNTIME, str(bundle / "run.py"), "check"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stderr
    assert "it is for ['aarch64'], this machine is" in done.stderr
    assert command("verify", bundle).code == 6


@pytest.mark.parametrize(("leave", "code"), [((), 5), (("--allow-unmeasured",), 0)])
def test_a_goal_that_needs_the_device_ends_in_5_unless_allowed(
    leave: tuple[str, ...], code: int, network: Path, tmp_path: Path
) -> None:
    """The bundle is written either way."""
    goals = ("--goal", "latency<=0.5", "--goal", "macs<=0.6")
    ended = build(network, tmp_path / "out", "--target", "rpi", *goals, *leave)
    assert ended.code == code, ended.err
    assert (f"goal latency<=0.5: {NOT_MEASURED}" in ended.err and "--allow-unmeasured" in ended.err) == (code == 5)
    latency, macs = reported(tmp_path / "out", "rpi5").goals
    assert (latency.value, latency.met, macs.met) == (None, None, True)
    assert (tmp_path / "out" / "rpi5" / "SHA256SUMS").is_file()


def test_a_dry_run_for_a_cpu_elsewhere_plans_and_times_nothing(network: Path, tmp_path: Path) -> None:
    ended = build(network, tmp_path / "out", "--target", "rk3588", "--dry-run", "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert list(found["targets"]) == ["rk3588"]
    assert any(site["structure"] != "dense" for site in found["targets"]["rk3588"])
    assert {point["latency"] for point in found["pareto"]["rk3588"]} == {None}
    assert list(tmp_path.iterdir()) == []


# --- JetPacks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", JETPACKS)
def test_each_jetpack_gets_an_opset_that_it_reads(shipped: Path, asked: str) -> None:
    """That of its profile, or that of the exporter where the profile's is higher, with the IR version of it."""
    profile = load_target(asked)
    for path in (
        shipped / profile.name / "model.onnx",
        shipped / "intermediates" / profile.name / "dense.onnx",
    ):
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        written = [(entry.domain, entry.version) for entry in model.opset_import]
        assert written == [("", min(profile.opset, EXPORTED))]
        assert model.ir_version == min(profile.ir_version, 8)
        assert {node.domain for node in model.graph.node} == {""}


@pytest.mark.parametrize("asked", JETPACKS)
def test_each_jetpack_gets_a_network_that_computes_the_same(shipped: Path, network: Path, asked: str) -> None:
    """At its opset dense equals the user's module, and what ships equals its own golden outputs and exported form."""
    profile = load_target(asked)
    bundle, intermediates = shipped / profile.name, shipped / "intermediates" / profile.name
    with np.load(bundle / "golden.npz") as stored:
        (images,) = (stored[key] for key in stored.files if key.startswith("input:"))
        (golden,) = (stored[key] for key in stored.files if key.startswith("output:"))
    module = load_model(f"{network}:net", None).module.eval()
    with torch.no_grad():
        dense = np.concatenate([module(torch.from_numpy(image[None])).numpy() for image in images])
    tolerance = profile.tolerances["fp32"]
    assert distance(run_onnx(intermediates / "dense.onnx", images), dense) <= tolerance
    compressed = run_onnx(bundle / "model.onnx", images)
    assert distance(compressed, golden) <= tolerance
    assert distance(run_onnx(intermediates / "portable.onnx", images), golden) <= tolerance
    assert distance(compressed, dense) > tolerance  # it is the factorized network that was compared


@pytest.mark.parametrize(
    ("asked", "opset", "ir_version", "table"),
    [
        ("jetson-nano@jp4.6", 13, 7, "of TensorRT 8.2"),
        ("jetson@jp5.1", 17, 8, "of TensorRT 8.5"),
        ("jetson", 17, 8, "of TensorRT 8.6"),
        ("jetson@jp6.2", EXPORTED, 8, "of TensorRT 10.0-10.1, the last one known; 10.3 itself was not checked"),
        ("jetson@jp7.2", EXPORTED, 8, "of TensorRT 10.0-10.1, the last one known; 10.16 itself was not checked"),
    ],
)
def test_each_jetpack_is_checked_against_the_table_of_its_parser(
    shipped: Path, asked: str, opset: int, ir_version: int, table: str
) -> None:
    """The report says by which; what ships has the opset and IR that the note speaks of, and the script its release."""
    profile = load_target(asked)
    (note,) = (note for note in reported(shipped, profile.name).notes if note.startswith("static check"))
    assert f"opset {opset}, zero points and int8 groups" in note
    assert note.endswith(table)
    model = onnx.load(shipped / profile.name / "model.onnx")
    assert (model.opset_import[0].version, model.ir_version) == (opset, ir_version)
    script = (shipped / profile.name / "build_engine.sh").read_text(encoding="utf-8")
    assert f"tensorrt={profile.runtime.version}\nprecision=fp32\n" in script


def test_a_jetson_in_int8_is_what_its_parser_takes(network: Path, tmp_path: Path) -> None:
    """Groups of two and of one channel stay in float, by name; every check down to the quantized model passes."""
    ended = build(network, tmp_path / "out", "--target", "jetson", "--precision", "int8", "--allow-fallback")
    assert ended.code == 0, ended.err
    found = reported(tmp_path / "out", "jetson-orin-nano")
    assert [check.passed for check in found.verification if check.stage == "quantized"] == [True]
    assert any("the runtime has no int8 for groups of" in note for note in found.notes)
    assert any(note.startswith("static check") for note in found.notes)
    operators = [node.op_type for node in onnx.load(tmp_path / "out/jetson-orin-nano/model.onnx").graph.node]
    assert operators.count("QuantizeLinear") == operators.count("DequantizeLinear") > 0
    script = (tmp_path / "out/jetson-orin-nano/build_engine.sh").read_text(encoding="utf-8")
    assert '"--int8"' in script
    assert "\nallow_fallback=yes\n" in script
    manifest = json.loads((tmp_path / "out/jetson-orin-nano/manifest.json").read_text(encoding="utf-8"))
    assert manifest["rebuild"].endswith(" --allow-fallback")


def distance(outputs: Outputs, reference: np.ndarray) -> float:
    """Relative L2 of the only output from ``reference``."""
    (output,) = outputs.values()
    return float(np.linalg.norm(output - reference) / np.linalg.norm(reference))
