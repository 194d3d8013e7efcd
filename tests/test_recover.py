"""Builds with ``--recover``: the trained network is what ships, checked as any other, and the report says so."""

import json
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kronexport.plan.goals import parse_goal
from kronexport.plan.kept import NOTE
from kronexport.plan.planner import Planner
from kronexport.records import TargetReport
from kronexport.recover import distil
from kronexport.recover.checkpoint import Saved, write_checkpoint
from kronexport.ship.report_json import read_report_json
from kronexport.stages.compress import scoring
from tests.conftest import SHORT, Ended, command
from tests.small_network import SHAPE, images

TARGET = "rpi5"
"""Not measured here, which is fast."""
NETWORK = """
from tests.small_network import small as net

def train(student, teacher):
    student.get_parameter("0.factors.0").data.mul_(0.5)

def broken(student, teacher):
    raise RuntimeError("out of data")
"""
PLAN = """
version = 1
target = "rpi5"

[[site]]
name = "0"
method = "gkpd"
factors = [{ rank_axes = "a", size = [4, 3, 1, 1] }, { rank_axes = "a", size = [2, 1, 3, 3] }]
ranks = [1]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's network, plans and images, with an empty cache."""
    monkeypatch.setenv("KRONEXPORT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "net.py").write_text(NETWORK, encoding="utf-8")
    (tmp_path / "plan.toml").write_text(PLAN, encoding="utf-8")
    (tmp_path / "dense.toml").write_text(PLAN.partition("[[site]]")[0], encoding="utf-8")
    np.savez(tmp_path / "train.npz", images=images(32), labels=np.arange(32) % 5)
    return tmp_path


def build(folder: Path, *options: object, plan: str = "plan.toml") -> Ended:
    size = "x".join(map(str, SHAPE))
    words = ("--plan", folder / plan, "--input", size, "--out", folder / "out")
    return command("build", f"{folder / 'net.py'}:net", *words, *options, *SHORT)


def report(folder: Path) -> TargetReport:
    return read_report_json(folder / "out" / "report.json").targets[TARGET]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epochs that checkpoints are written after; at the first the build is stopped."""
    epochs: list[int] = []

    def stopping(path: Path, run: dict[str, str], saved: Saved) -> None:
        write_checkpoint(path, run, saved)
        epochs.append(len(saved.figures))
        if len(epochs) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(distil, "write_checkpoint", stopping)
    return epochs


def test_with_resume_a_build_goes_on_with_the_plan_that_it_had(
    folder: Path, written: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is planned by times, which may come out otherwise when they are taken again."""
    words = ["build", f"{folder / 'net.py'}:net", "--input", "x".join(map(str, SHAPE)), "--out", folder / "out"]
    words += ["--target", "cpu", "--goal", "macs<=0.5", "--recover", folder / "train.npz", "--epochs", "3"]
    words += ["--set", "recipe.batch=16", *SHORT]
    stopped = command(*words)
    assert stopped.code == 130
    assert "run the same command again, a build with --resume" in stopped.err

    def planned_again(*_: object) -> None:
        raise AssertionError("planned again")

    monkeypatch.setattr(Planner, "_plan_by_goals", planned_again)
    ended = command(*words, "--resume")
    assert ended.code == 0, ended.err
    assert written == [1, 2, 3]
    assert NOTE in read_report_json(folder / "out" / "report.json").targets["x86-onnxruntime"].notes


def test_a_build_that_was_interrupted_goes_on_ships_and_tells(folder: Path, written: list[int]) -> None:
    """Stopped after the first of three epochs, it trains the other two; the network that ships is the trained one."""
    data = ("--recover", folder / "train.npz", "--epochs", "3", "--set", "recipe.batch=16")
    assert build(folder, *data).code == 130
    assert not (folder / "out" / "report.json").exists()
    ended = build(folder, *data)
    assert ended.code == 0, ended.err
    assert written == [1, 2, 3]
    found = report(folder)
    told = found.recover
    assert told is not None
    assert (told.kind, told.images, told.labels, told.epochs) == ("distillation", 32, True, 3)
    assert told.recipe is not None
    assert (told.recipe["cross_entropy"], told.recipe["batch"]) == (0.1, 16)
    assert told.loss_before != told.loss_after
    assert told.error_before is not None
    assert told.error_after is not None
    assert told.error_after < told.error_before
    assert told.error_after == found.verification[0].rel_l2
    assert all(check.passed is not False for check in found.verification)
    assert any("taught by the dense one, 3 epochs on 32 images with labels" in note for note in found.notes)
    rebuild = json.loads((folder / "out" / TARGET / "manifest.json").read_text())["rebuild"]
    assert "--recover train.npz --epochs 3" in rebuild
    assert "--set recipe.batch=16" in rebuild
    config = tomllib.loads((folder / "out" / "config.toml").read_text())
    assert (config["recover"], config["epochs"]) == (str(folder / "train.npz"), 3)
    assert config["recipe"] == {"batch": 16}


@pytest.mark.parametrize(
    ("precision", "dense_accuracy", "expected"),
    [
        ("fp32", 90.0, (True, 88.0)),
        ("fp16", 90.0, (True, None)),
        ("int8", 90.0, (True, None)),
        ("fp32", None, (False, None)),
    ],
)
def test_training_ends_at_a_goal_on_accuracy_in_float_alone(
    precision: str, dense_accuracy: float | None, expected: tuple[bool, float | None]
) -> None:
    """In other precisions every epoch is trained: the engine may score less than the network in float."""
    goals = parse_goal("params<=0.5"), parse_goal("accuracy_drop<=2"), parse_goal("accuracy_drop<=3")
    planner = SimpleNamespace(goals_of=lambda _profile: goals)
    job: Any = SimpleNamespace(planner=planner, profile=None, config=SimpleNamespace(precision=precision))
    assert scoring(job, dense_accuracy) == expected


def test_a_loop_of_the_user_s_own_trains_as_well(folder: Path) -> None:
    """What it raises ends the build with its own line."""
    ended = build(folder, "--recover", f"{folder / 'net.py'}:train")
    assert ended.code == 0, ended.err
    told = report(folder).recover
    assert told is not None
    assert (told.kind, told.recipe, told.epochs) == ("own loop", None, None)
    assert told.error_before != told.error_after
    ended = build(folder, "--recover", f"{folder / 'net.py'}:broken")
    assert ended.code == 2
    assert "net.py:broken: raised RuntimeError: out of data" in ended.err


def test_nothing_is_trained_where_all_stays_dense(folder: Path) -> None:
    ended = build(folder, "--recover", f"{folder / 'net.py'}:broken", plan="dense.toml")
    assert ended.code == 0, ended.err
    assert report(folder).recover is None


def test_epochs_alone_are_refused_before_any_work(folder: Path) -> None:
    ended = build(folder, "--epochs", "3")
    assert ended.code == 2
    assert "--epochs 3: there is nothing to train on" in ended.err
    assert not (folder / "out").exists()
