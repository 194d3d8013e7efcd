"""``--recover``: what it may name, and a distillation that is kept in the cache."""

import errno
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

from kronexport import cache
from kronexport.errors import KronexportError, UserInputError
from kronexport.records import InputSpec, silent
from kronexport.recover import recovery as module
from kronexport.recover.distil import distil
from kronexport.recover.recipe import Recipe
from kronexport.recover.recovery import Distillation, load_recovery, recovered
from tests.recover.samples import FAST, networks, same_weights
from tests.small_network import SHAPE, images

SPEC = InputSpec("input", SHAPE)
SOURCE = """
import numpy as np

def batches():
    yield np.ones((2, 3, 24, 24), np.float32)
    yield np.ones((3, 3, 24, 24), np.float32)

def train(student, teacher):
    student.get_parameter("0.factors.0").data.mul_(2)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an empty cache and all that ``--recover`` may name in it."""
    monkeypatch.setenv("KRONEXPORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own.py").write_text(SOURCE, encoding="utf-8")
    np.save(tmp_path / "plain.npy", images(4))
    np.savez(tmp_path / "labelled.npz", images=images(4), labels=np.arange(4) % 2)
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.full((24, 24, 3), 51, np.uint8)).save(tmp_path / "photos" / "a.png")
    return tmp_path


def loaded(source: str, epochs: int | None = None, **options: Any) -> Distillation:
    found = load_recovery(source, epochs, SPEC, **options)
    assert isinstance(found, Distillation)
    return found


@pytest.mark.parametrize(
    ("source", "count"), [("plain.npy", 4), ("labelled.npz", 4), ("photos", 1), ("own.py:batches", 5)]
)
def test_images_are_read_as_those_of_calibration(source: str, count: int) -> None:
    found = loaded(source, epochs=3)
    assert found.images.shape == (count, 3, 24, 24)
    assert found.recipe.epochs == 3
    is_labelled = source == "labelled.npz"
    assert (found.labels is not None, found.recipe.cross_entropy > 0) == (is_labelled, is_labelled)


def test_a_folder_is_normalized() -> None:
    found = loaded("photos", mean=(0.1, 0.1, 0.1), std=(0.5, 0.5, 0.5))
    np.testing.assert_allclose(found.images, np.full((1, 3, 24, 24), 0.2), atol=1e-6)


def test_no_more_images_are_taken_than_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VALUES_LIMIT", 3 * 3 * 24 * 24)
    assert len(loaded("own.py:batches").images) == 3


def test_a_function_of_two_networks_trains_them() -> None:
    student, teacher = networks()
    loop = load_recovery("own.py:train", None, SPEC)
    assert loop is not None
    trained, told = recovered(loop, student, teacher, progress=silent)
    factor = student.get_parameter("0.factors.0")
    assert (trained.get_parameter("0.factors.0") == 2 * factor).all()
    assert (told.kind, told.epochs, told.recipe) == ("own loop", None, None)


def test_without_the_option_nothing_is_trained() -> None:
    assert load_recovery(None, None, SPEC) is None


@pytest.mark.parametrize(
    ("source", "epochs", "message"),
    [
        (None, 3, "--epochs 3: there is nothing to train on; give --recover images/"),
        ("own.py:train", 3, "--epochs 3: --recover own.py:train is a training loop of its own; leave it out"),
        ("nowhere", None, "--recover nowhere: does not exist"),
        ("own.py:nothing", None, "--recover: own.py has no 'nothing'"),
        ("floats.npz", None, r"--recover floats.npz: labels: float64 \[4\]"),
        ("few.npz", None, r"labels: int64 \[3\], expected a class of at least 0 for each of 4 images"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(folder: Path, source: str | None, epochs: int, message: str) -> None:
    np.savez(folder / "floats.npz", images=images(4), labels=np.ones(4))
    np.savez(folder / "few.npz", images=images(4), labels=np.arange(3))
    with pytest.raises(UserInputError, match=message):
        load_recovery(source, epochs, SPEC)


@pytest.mark.parametrize("source", [None, "own.py:train"])
def test_a_recipe_without_images_is_refused(source: str | None) -> None:
    with pytest.raises(UserInputError, match=r"^recipe {'batch': 8}: "):
        load_recovery(source, None, SPEC, recipe={"batch": 8})


def test_what_a_recipe_says_takes_the_place_of_the_usual() -> None:
    """The weight of labels, too, and ``--epochs`` is beside it."""
    found = loaded("labelled.npz", 3, recipe={"cross_entropy": 0.5, "batch": 8})
    assert found.recipe == Recipe(epochs=3, cross_entropy=0.5, batch=8)


def fast() -> Distillation:
    return replace(loaded("plain.npy"), recipe=FAST)


def checkpoints(folder: Path) -> list[Path]:
    return list((folder / "cache" / "recover").iterdir())


def test_a_network_is_trained_once(folder: Path) -> None:
    """The second time it is read from the cache; other images are another training."""
    student, teacher = networks()
    first, told = recovered(fast(), student, teacher, progress=silent)
    steps: list[int] = []
    again, told_again = recovered(fast(), student, teacher, progress=lambda _stage, done, _total: steps.append(done))
    assert same_weights(first, again)
    assert told == told_again
    assert steps == []
    assert (told.kind, told.images, told.labels, told.epochs) == ("distillation", 4, False, 2)
    recovered(replace(fast(), images=images(5)), student, teacher, progress=silent)
    assert len(checkpoints(folder)) == 2


def test_a_network_of_another_forward_is_another_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its values and layers are the same; and so is one by other code of our own."""
    whole: Any = nn.Sequential.forward  # which torch leaves untyped
    with monkeypatch.context() as patch:
        patch.setattr(nn.Sequential, "forward", lambda self, images: 0.5 * whole(self, images))
        recovered(fast(), *networks(), progress=silent)
    recovered(fast(), *networks(), progress=silent)
    assert len(checkpoints(folder)) == 2
    monkeypatch.setattr(module, "code_key", lambda: b"other code")
    recovered(fast(), *networks(), progress=silent)
    assert len(checkpoints(folder)) == 3


def test_a_damaged_checkpoint_is_told_and_the_network_trained_again(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    student, teacher = networks()
    first, _ = recovered(fast(), student, teacher, progress=silent)
    (kept,) = checkpoints(folder)
    kept.write_bytes(kept.read_bytes()[:500])
    with caplog.at_level(logging.WARNING, "kronexport"):
        again, _ = recovered(fast(), student, teacher, progress=silent)
    assert "is damaged" in caplog.text
    assert same_weights(first, again)


def test_without_a_cache_it_is_trained_all_the_same(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "cache").write_text("a file", encoding="utf-8")
    with caplog.at_level(logging.WARNING, "kronexport"):
        _, told = recovered(fast(), *networks(), progress=silent)
    assert told.epochs == 2
    assert "nothing is kept for the next run" in caplog.text


def test_a_cache_on_a_full_disk_is_told_and_the_training_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole, _ = recovered(fast(), *networks(), progress=silent)
    (kept,) = checkpoints(folder)
    kept.unlink()
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    monkeypatch.setattr(cache, "_unwritable", set())
    with caplog.at_level(logging.WARNING, "kronexport"):
        trained, _ = recovered(fast(), *networks(), progress=silent)
    assert caplog.text.count("disk full") == 1
    assert same_weights(whole, trained)
    assert checkpoints(folder) == []
    with pytest.raises(KronexportError, match="disk full"):
        distil(*networks(), images(4), FAST, checkpoint=folder / "run.pt")


def full_disk(path: Path, _data: bytes) -> int:
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def test_the_best_epoch_is_kept_without_a_score_to_end_at(folder: Path) -> None:
    """And is no network of a training without scores, which ends with the last."""
    recovery = replace(fast(), recipe=replace(FAST, epochs=3))
    scores = [0.1, 0.9, 0.2, 0.2]
    best, told = recovered(recovery, *networks(), progress=silent, evaluate=lambda _predict: scores.pop(0))
    last, _ = recovered(recovery, *networks(), progress=silent)
    assert (told.epochs, scores) == (3, [])
    assert not same_weights(best, last)
    assert len(checkpoints(folder)) == 2


def test_training_ends_at_the_score_that_is_asked_for() -> None:
    scores = [0.1, 0.2, 0.9, 1.0]
    recovery = replace(fast(), recipe=replace(FAST, epochs=3))
    _, told = recovered(recovery, *networks(), progress=silent, evaluate=lambda _predict: scores.pop(0), stop_at=0.9)
    assert told.epochs == 2
    assert scores == [1.0]
