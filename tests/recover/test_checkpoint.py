"""A run that was interrupted goes on as if it had not been, and no other run goes on from its checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kronexport.errors import UserInputError
from kronexport.recover.checkpoint import EpochFigures
from kronexport.recover.distil import distil
from kronexport.recover.recipe import Recipe
from tests.recover.samples import FAST, data, networks, same_weights

RECIPE = replace(FAST, epochs=3, optimizer="adamw", learning_rate=0.01)


class Stop:
    """Ctrl-C at a step, or after an epoch."""

    def __init__(self, *, step: int = 0, epoch: int = 0) -> None:
        self.step, self.epoch = step, epoch

    def progress(self, _stage: str, done: int, _total: int) -> None:
        if done == self.step:
            raise KeyboardInterrupt

    def told(self, figures: EpochFigures) -> None:
        if figures.epoch == self.epoch:
            raise KeyboardInterrupt


def trained(checkpoint: Path | None, stop: Stop | None = None, **change: Any) -> Any:
    student, teacher = networks()
    asked = stop or Stop()
    given = {"student": student, "teacher": teacher, "data": data(), "recipe": RECIPE, **change}
    return distil(**given, checkpoint=checkpoint, device="cpu", progress=asked.progress, told=asked.told)


@pytest.mark.parametrize("recipe", [RECIPE, replace(RECIPE, optimizer="muon")])
@pytest.mark.parametrize("stop", [Stop(epoch=1), Stop(step=5)])
def test_a_run_that_was_interrupted_ends_with_the_same_bits(tmp_path: Path, stop: Stop, recipe: Recipe) -> None:
    """Between two epochs, and within one, which is begun again."""
    whole = trained(None, recipe=recipe)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "run.pt", stop, recipe=recipe)
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]
    seen: list[EpochFigures] = []
    student, teacher = networks()
    resumed = distil(student, teacher, data(), recipe, checkpoint=tmp_path / "run.pt", device="cpu", told=seen.append)
    assert same_weights(whole.model, resumed.model)
    assert [one.loss for one in seen] == [one.loss for one in whole.epochs]
    assert (whole.before, whole.after) == (resumed.before, resumed.after)


def test_a_finished_run_is_read_and_not_trained_again(tmp_path: Path) -> None:
    first = trained(tmp_path / "run.pt")
    again = trained(tmp_path / "run.pt", Stop(step=1))
    assert same_weights(first.model, again.model)
    assert first.epochs == again.epochs


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"recipe": replace(RECIPE, seed=1)}, "another recipe and another data"),
        ({"recipe": replace(RECIPE, epochs=4)}, "another recipe;"),
        ({"data": data() + 1}, "another data;"),
        ({"student": networks()[1]}, "another student;"),
        ({"teacher": networks()[0]}, "another teacher;"),
        ({"evaluate": lambda _predict: 1.0}, "another evaluator;"),
    ],
)
def test_another_run_does_not_go_on_from_it(tmp_path: Path, change: dict[str, Any], differs: str) -> None:
    trained(tmp_path / "run.pt")
    with pytest.raises(UserInputError, match=f"run.pt: is of a run with {differs}"):
        trained(tmp_path / "run.pt", **change)


def test_a_forward_that_has_changed_does_not_go_on_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and layers are what they were; in the first run both networks give half of what they give now."""
    whole: Any = nn.Sequential.forward  # which torch leaves untyped
    with monkeypatch.context() as patch:
        patch.setattr(nn.Sequential, "forward", lambda self, images: 0.5 * whole(self, images))
        trained(tmp_path / "run.pt")
    with pytest.raises(UserInputError, match=r"run.pt: is of a run with another forward or number of threads;"):
        trained(tmp_path / "run.pt")


def foreign(path: Path) -> None:
    torch.save({"state_dict": {}}, path)


def older(path: Path) -> None:
    torch.save({"format": "kronexport distillation 3"}, path)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def no_file_of_torch(path: Path) -> None:
    path.write_text("not a checkpoint", encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (foreign, "is no checkpoint of distil"),
        (older, r"is of another version of kronexport, 'kronexport distillation 3'.*finish it by that version"),
        (cut_off, "is damaged"),
        (no_file_of_torch, "is damaged"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, damage: Any, message: str) -> None:
    trained(tmp_path / "run.pt")
    damage(tmp_path / "run.pt")
    with pytest.raises(UserInputError, match=rf"run.pt: {message}.*delete it to start again"):
        trained(tmp_path / "run.pt")


def test_a_score_of_numpy_is_read_again(tmp_path: Path) -> None:
    """As a mean of an array is one."""
    first = trained(tmp_path / "run.pt", evaluate=lambda _predict: np.float64(0.5))
    again = trained(tmp_path / "run.pt", Stop(step=1), evaluate=lambda _predict: np.float64(0.5))
    assert same_weights(first.model, again.model)


def test_what_cannot_be_a_checkpoint_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserInputError, match=r"run.pt: its folder cannot be made \(File exists\)"):
        trained(tmp_path / "file" / "run.pt", Stop(step=1))
    with pytest.raises(UserInputError, match=r"cannot be read \(Is a directory\)"):
        trained(tmp_path, Stop(step=1))
