"""``--device``: a target that is a board is planned, verified, scored and measured there, over real SSH on loopback."""

import json
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kronexport import request
from kronexport.backends import profile
from kronexport.backends.profile import targets_folder
from kronexport.config import BuildConfig
from kronexport.machines.board import Board
from kronexport.machines.here import HERE, Here
from kronexport.measure.store import MeasurementStore, conditions_of
from kronexport.records import TargetReport
from kronexport.ship.report_json import missing_reasons, read_report_json
from tests.conftest import INPUT, SHORT, Ended, command
from tests.machines.server import Server, eventually, known

TARGET = "loopback"
EVALUATOR = """
import numpy as np


def score(predictor):
    return float(predictor(np.ones((2, 3, 64, 64), np.float32)).size)
"""


@pytest.fixture(scope="module", autouse=True)
def nothing_runs_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Beside the shipped targets there is one that this machine fits as a board, and no model is measured but there."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured on a machine that is not the device")

    folder = tmp_path_factory.mktemp("targets")
    for path in targets_folder().glob("*.toml"):
        (folder / path.name).write_bytes(path.read_bytes())
    text = (folder / "x86-onnxruntime.toml").read_text(encoding="utf-8")
    text = text.replace('name = "x86-onnxruntime"', f'name = "{TARGET}"').replace("measured_here = true\n", "")
    (folder / f"{TARGET}.toml").write_text(text.replace('aliases = ["cpu"]', "aliases = []"), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile, "targets_folder", lambda: folder)
        patch.setattr(Here, "run_agent", refuse)
        yield


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One board for all tests of this file, with a lease of its own."""
    folder = tmp_path_factory.mktemp("ssh") / "board"
    with pytest.MonkeyPatch.context() as patch, known(folder, patch) as server:
        patch.setattr(request, "Board", partial(Board, lease=str(server.lease), patience=(0.0,)))
        yield server


def build(server: Server, network: Path, *arguments: object) -> Ended:
    device = ("--device", server.address, "--device-python", sys.executable)
    return command("build", f"{network}:net", "--input", INPUT, *device, *SHORT, *arguments)


@pytest.fixture(scope="module")
def shipped(server: Server, network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output for the board; only to be read."""
    out = tmp_path_factory.mktemp("shipped") / "out"
    (network.parent / "score.py").write_text(EVALUATOR, encoding="utf-8")
    scored = ("--evaluate", f"{network.parent / 'score.py'}:score", "--goal", "latency<=100ms", "--goal", "macs<=0.5")
    ended = build(server, network, "--target", TARGET, "--out", out, "--time-budget", "1s", *scored)
    assert ended.code == 0, ended.err
    return out


@pytest.fixture(scope="module")
def reported(shipped: Path) -> TargetReport:
    return read_report_json(shipped / "report.json").targets[TARGET]


def test_time_memory_and_accuracy_are_the_boards(reported: TargetReport) -> None:
    for figures in (reported.dense, reported.compressed):
        assert figures.latency_ms is not None
        assert figures.latency_ms.n >= 5
        assert figures.peak_memory_bytes or any("peak_memory" in key for key in reported.unmeasured)
        assert figures.accuracy == 8.0
    assert reported.speedup is not None
    assert reported.environment["runtime"] == "onnxruntime"
    assert not any("no device" in reason for reason in reported.unmeasured.values())
    assert [goal.met for goal in reported.goals] == [True, True]


def test_the_engine_is_verified_on_the_board_and_the_report_says_where(server: Server, reported: TargetReport) -> None:
    checks = {check.stage: check for check in reported.verification}
    assert checks["compiled"].passed
    (note,) = (note for note in reported.notes if "verified" in note)
    assert note.startswith(f"the engine was verified and measured on {server.address.place} (")
    assert server.reached.count("fetch outputs") >= 4  # dense and compressed, golden images and those of the evaluator


def test_the_plan_rests_on_times_of_the_board(shipped: Path) -> None:
    plan = tomllib.loads((shipped / "intermediates" / TARGET / "plan.toml").read_text(encoding="utf-8"))
    assert plan["basis"] in ("measured", "mixed")
    assert missing_reasons(read_report_json(shipped / "report.json")) == []


def test_addresses_do_not_ship(server: Server, shipped: Path) -> None:
    """The command that builds the bundle again names a board, but not whose."""
    manifest: dict[str, Any] = json.loads((shipped / TARGET / "manifest.json").read_text(encoding="utf-8"))
    assert "--device ssh://BOARD --device-python PYTHON" in manifest["rebuild"]
    assert manifest["protocol"]["clock"]
    assert all(server.address.place.encode() not in path.read_bytes() for path in (shipped / TARGET).iterdir())
    resolved = tomllib.loads((shipped / "config.toml").read_text(encoding="utf-8"))
    assert resolved["device"] == str(server.address)


def test_the_board_is_left_as_it_was(server: Server, shipped: Path) -> None:
    assert (shipped / TARGET / "SHA256SUMS").is_file()
    assert eventually(server.is_free)
    assert server.leftovers() == []


def test_what_was_timed_before_the_board_was_lost_is_kept(
    server: Server, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command then goes on from there."""
    monkeypatch.setenv("KRONEXPORT_CACHE", str(tmp_path / "cache"))
    conditions = conditions_of("onnxruntime", 1, "fp32", request.race_timing(SHORT_RACES), machine=HERE)
    server.cut("run", 100, after=3)
    ended = build(server, network, "--target", TARGET, "--out", tmp_path / "out", "--dry-run", "--threads", "1")
    server.cut("run", 0)
    assert ended.code == 1
    assert f"{server.address}: " in ended.err
    assert not (tmp_path / "out").exists()
    with MeasurementStore() as store:
        kept = store.times(conditions)
    assert kept
    arguments = ("--target", TARGET, "--out", tmp_path / "out", "--dry-run", "--threads", "1", "--time-budget", "2s")
    assert build(server, network, *arguments).code == 0
    with MeasurementStore() as store:
        assert kept.items() <= store.times(conditions).items()


SHORT_RACES = BuildConfig.model_validate({"model": "m", "measure": {"seconds": 0.05, "rounds": 5, "warmup_seconds": 0}})


# --- refused before any work ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("cpu", "is whatever machine builds, expected a target that is a device"),
        ("rpi5", "expected aarch64; choose its target"),
    ],
)
def test_a_board_that_is_not_the_target_is_refused(
    server: Server, network: Path, tmp_path: Path, target: str, message: str
) -> None:
    ended = build(server, network, "--target", target, "--out", tmp_path / "out")
    assert ended.code == 2
    assert message in ended.err
    assert not (tmp_path / "out").exists()
    assert eventually(server.is_free)


def test_a_board_in_use_is_refused_before_any_work(server: Server, network: Path, tmp_path: Path) -> None:
    with server.board() as other:
        other.environment("onnxruntime")
        ended = build(server, network, "--target", TARGET, "--out", tmp_path / "out")
    assert ended.code == 1
    assert "the board is in use by" in ended.err
    assert not (tmp_path / "out").exists()


def test_an_address_of_another_form_is_refused(network: Path) -> None:
    ended = command("build", f"{network}:net", "--device", "me@orin")
    assert ended.code == 2
    assert "--device 'me@orin': expected ssh://[USER@]HOST[:PORT]" in ended.err
