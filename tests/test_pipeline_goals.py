"""Goals, the guard against a slower network, and the exit code that several targets end in."""

import dataclasses
import errno
import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest

from kronexport import pipeline
from kronexport.backends.profile import load_target
from kronexport.config import BuildConfig
from kronexport.errors import BundleError, GoalError, KronexportError, UserInputError, VerificationError
from kronexport.measure.pair import PairFigures, SideFigures
from kronexport.pipeline import with_goals
from kronexport.plan.goals import parse_goal
from kronexport.records import LatencyStats, Report, Speedup, TargetReport
from kronexport.ship.report_json import read_report_json
from kronexport.stages import measure as measure_stages
from kronexport.stages.job import Job
from kronexport.verify.outputs import run_onnx
from tests.conftest import INPUT, SHORT, TARGETS, Built, Ended, command

if TYPE_CHECKING:
    from kronexport.plan.planner import Planner

X86 = TARGETS[:2]
BOARD = TARGETS[2]


@pytest.fixture
def report(built: Built) -> Report:
    return read_report_json(built.folder / "report.json")


def build(network: Path, out: Path, *arguments: object) -> Ended:
    return command("build", f"{network}:net", "--input", INPUT, "--out", out, *arguments, *SHORT)


# --- goals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("leave", "code"), [((), 5), (("--allow-unmeasured",), 0)])
def test_a_goal_that_needs_the_board_ends_in_5_unless_allowed(
    leave: tuple[str, ...], code: int, network: Path, tmp_path: Path
) -> None:
    """The bundle is written either way."""
    goals = ("--goal", "latency<=0.5", "--goal", "macs<=0.6")
    ended = build(network, tmp_path / "out", "--target", "jetson", *goals, *leave)
    assert ended.code == code, ended.err
    assert ("no device" in ended.err and "--allow-unmeasured" in ended.err) == (code == 5)
    latency, macs = read_report_json(tmp_path / "out" / "report.json").targets[BOARD].goals
    assert (latency.value, latency.met) == (None, None)
    assert macs.met is True
    assert (tmp_path / "out" / BOARD / "SHA256SUMS").is_file()
    manifest = json.loads((tmp_path / "out" / BOARD / "manifest.json").read_text(encoding="utf-8"))
    assert ("--allow-unmeasured" in manifest["rebuild"].split()) == bool(leave)


def test_a_goal_out_of_reach_ends_in_5_and_ships_nothing(network: Path, tmp_path: Path) -> None:
    ended = build(network, tmp_path / "out", "--target", "cpu", "--goal", "params<=0.001")
    assert ended.code == 5
    assert "cannot be met: the least that the factorizable convolutions allow is" in ended.err
    assert not (tmp_path / "out" / X86[0]).exists()


def measured_as(verdict: str) -> Callable[..., PairFigures]:
    """A double of measure_pair: fixed figures, since no test can make a network slower on demand."""
    median = {"slower": 0.8, "faster": 1.25}[verdict]

    def measure(dense: Path, compressed: Path, *_setting: object) -> PairFigures:
        same = dense.read_bytes() == compressed.read_bytes()
        stats = LatencyStats(10, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0)
        speedup = Speedup(1.0, (0.9, 1.1), "within noise") if same else Speedup(median, (median, median), verdict)  # type: ignore[arg-type]  # a verdict
        return PairFigures(SideFigures(stats, 1, 1), SideFigures(stats, 1, 1), speedup, {}, {}, {})

    return measure


def test_asked_for_speed_dense_ships_rather_than_something_slower(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The goal is missed, exit code 5, and the bundle holds the dense network."""
    monkeypatch.setattr(measure_stages, "measure_pair", measured_as("slower"))
    ended = build(network, tmp_path / "out", "--target", "cpu", "--goal", "latency<=0.9", "--goal", "macs<=0.5")
    assert ended.code == 5
    assert "goal latency<=0.9 missed" in ended.err
    assert "slower than dense: dense is shipped" in caplog.text
    figures = read_report_json(tmp_path / "out" / "report.json").targets[X86[0]]
    assert {layer.method for layer in figures.layers} == {"dense"}
    assert figures.compressed == figures.dense
    images = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    (shipped,) = run_onnx(tmp_path / "out" / X86[0] / "model.onnx", images).values()
    (dense,) = run_onnx(tmp_path / "out" / "intermediates" / "dense.onnx", images).values()
    np.testing.assert_allclose(shipped, dense, rtol=1e-4, atol=1e-6)


def test_not_asked_for_speed_a_slower_network_ships_with_a_warning(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The user asked for fewer MACs and gets them, exit code 0, and is told."""
    monkeypatch.setattr(measure_stages, "measure_pair", measured_as("slower"))
    with caplog.at_level(logging.WARNING):
        ended = build(network, tmp_path / "out", "--target", "cpu", "--goal", "macs<=0.5")
    assert ended.code == 0, ended.err
    assert "the compressed network is slower than dense" in caplog.text
    figures = read_report_json(tmp_path / "out" / "report.json").targets[X86[0]]
    assert figures.speedup is not None
    assert figures.speedup.verdict == "slower"
    assert figures.compressed.macs <= 0.5 * figures.dense.macs


# --- exit codes of several targets -----------------------------------------------------------------------------------

FAILURES = {1: KronexportError, 4: VerificationError, 6: BundleError, 5: GoalError}


@pytest.mark.parametrize(
    ("codes", "first"), [((5, 4), 4), ((6, 5), 6), ((4, 1), 1), ((6, 4), 4), ((5, 5), 5), ((5, 6, 1, 4), 1)]
)
def test_of_several_failures_the_first_of_1_4_6_5_decides(codes: tuple[int, ...], first: int) -> None:
    """The message holds all of them."""
    failure = pipeline.first_failure([FAILURES[code](f"failure {code}") for code in codes])
    assert failure.exit_code == first
    assert all(f"failure {code}" in str(failure) for code in codes)


def doubled(outcomes: dict[str, TargetReport | KronexportError]) -> Callable[..., TargetReport]:
    """A double of build_target: what becomes of each target is given."""

    def build_target(job: Job, _dense: object) -> TargetReport:
        outcome = outcomes[job.profile.name]
        if isinstance(outcome, KronexportError):
            raise outcome
        return outcome

    return build_target


def test_a_target_that_fails_does_not_stop_the_others(
    network: Path, tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 comes before 5; the report holds what was shipped, and the message names both targets."""
    goal = dataclasses.replace(report.targets[X86[0]].goals[0], value=0.7, met=False)
    missed = dataclasses.replace(report.targets[X86[0]], goals=(goal,))
    outcomes: dict[str, TargetReport | KronexportError] = {X86[0]: missed, X86[1]: VerificationError("outputs differ")}
    monkeypatch.setattr(pipeline, "build_target", doubled(outcomes))
    ended = build(network, tmp_path / "out", "--target", "cpu", "--target", "openvino")
    assert ended.code == 4
    assert "x86-openvino: outputs differ" in ended.err
    assert "x86-onnxruntime: goal macs<=0.5 missed: the best that was found is 0.7" in ended.err
    assert list(read_report_json(tmp_path / "out" / "report.json").targets) == [X86[0]]


def test_where_every_target_fails_there_is_no_report(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes: dict[str, TargetReport | KronexportError] = {
        X86[0]: GoalError("out of reach"),
        X86[1]: VerificationError("outputs differ"),
    }
    monkeypatch.setattr(pipeline, "build_target", doubled(outcomes))
    ended = build(network, tmp_path / "out", "--target", "cpu", "--target", "openvino")
    assert ended.code == 4
    assert ended.out == ""
    assert not (tmp_path / "out" / "report.json").exists()


def test_what_one_target_refuses_does_not_stop_the_others(
    network: Path, tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator that one target's opset lacks: exit code 2, and the report holds the target that was shipped."""
    outcomes: dict[str, TargetReport | KronexportError] = {
        X86[0]: UserInputError("no such operator at opset 13"),
        X86[1]: report.targets[X86[0]],
    }
    monkeypatch.setattr(pipeline, "build_target", doubled(outcomes))
    ended = build(network, tmp_path / "out", "--target", "cpu", "--target", "openvino")
    assert ended.code == 2
    assert f"error: {X86[0]}: no such operator at opset 13" in ended.err
    assert list(read_report_json(tmp_path / "out" / "report.json").targets) == [X86[1]]


def test_a_goal_on_latency_that_is_met_keeps_a_slower_network(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every goal is met, so nothing is given up for speed that nobody asked for."""
    monkeypatch.setattr(measure_stages, "measure_pair", measured_as("slower"))
    ended = build(network, tmp_path / "out", "--target", "cpu", "--goal", "latency<=1s", "--goal", "macs<=0.5")
    assert ended.code == 0, ended.err
    figures = read_report_json(tmp_path / "out" / "report.json").targets[X86[0]]
    assert all(goal.met for goal in figures.goals)
    assert figures.compressed.macs <= 0.5 * figures.dense.macs


def test_a_build_that_fails_leaves_an_earlier_output_as_it_was(
    network: Path, built_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Configuration, dense network and report stay those of the bundles that are there."""
    kept = {path: path.read_bytes() for path in built_copy.rglob("*") if path.is_file()}
    monkeypatch.setattr(pipeline, "build_target", doubled(dict.fromkeys(X86, VerificationError("outputs differ"))))
    ended = build(network, built_copy, "--target", "cpu", "--target", "openvino")
    assert ended.code == 4
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_target_named_twice_is_built_once(network: Path, tmp_path: Path) -> None:
    """By its name and by its alias."""
    ended = build(network, tmp_path / "out", "--target", "cpu", "--target", X86[0], "--dry-run", "--json")
    assert list(json.loads(ended.out)["targets"]) == [X86[0]]


def test_a_disk_that_fills_up_for_one_target_does_not_stop_the_others(
    network: Path, tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the error comes raw from the operating system: exit code 1, and the other target is reported."""

    def build_target(job: Job, _dense: object) -> TargetReport:
        if job.profile.name == X86[0]:
            raise OSError(errno.ENOSPC, "No space left on device", "model.xml")
        return report.targets[X86[1]]

    monkeypatch.setattr(pipeline, "build_target", build_target)
    ended = build(network, tmp_path / "out", "--target", "cpu", "--target", "openvino")
    assert ended.code == 1
    assert f"error: {X86[0]}: model.xml: No space left on device; free some space" in ended.err
    assert list(read_report_json(tmp_path / "out" / "report.json").targets) == [X86[1]]


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        ({"cpu": ("macs<=0.5",), "rpi5": ("macs<=0.5",)}, ("macs<=0.5",)),
        ({"cpu": (), "rpi5": ()}, ()),
        ({"cpu": (), "rpi5": ("macs<=0.5",)}, ()),
    ],
    ids=["the default", "none", "a plan for one of them"],
)
def test_the_goals_that_all_targets_were_planned_for_are_written(
    asked: dict[str, tuple[str, ...]], written: tuple[str, ...]
) -> None:
    """Where they differ a goal would be asked of the target that has none."""
    profiles = [load_target(name) for name in asked]
    goals = {
        profile.name: tuple(map(parse_goal, goals)) for profile, goals in zip(profiles, asked.values(), strict=True)
    }
    planner = cast("Planner", SimpleNamespace(goals_of=lambda profile: goals[profile.name]))
    assert with_goals(BuildConfig(model="net"), planner, profiles).goal == written
