"""``distil`` as a whole: what it gives back, what it leaves alone, and what it refuses."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kronexport.errors import UserInputError
from kronexport.export.replace import kronecker_modules
from kronexport.recover.distil import Predictor, distil
from kronexport.recover.recipe import Recipe
from tests.recover.samples import FAST, data, networks, same_weights


def test_the_student_comes_nearer_to_its_teacher_and_neither_is_changed() -> None:
    student, teacher = networks()
    before = student.state_dict(), teacher.state_dict()
    copies = [{name: value.clone() for name, value in state.items()} for state in before]
    done = distil(student, teacher, data(), replace(FAST, epochs=6), device="cpu")
    assert done.after.loss < 0.7 * done.before.loss
    assert done.after.error < 0.9 * done.before.error
    assert done.epochs[-1].loss < done.epochs[0].loss
    assert not done.model.training
    assert set(kronecker_modules(done.model)) == {"0", "3"}
    assert not student.training
    for state, copy in zip(before, copies, strict=True):
        assert all(torch.equal(value, copy[name]) for name, value in state.items())


@pytest.mark.parametrize(
    "recipe",
    [
        FAST,
        replace(FAST, optimizer="adamw", learning_rate=0.01, schedule="cosine"),
        replace(FAST, optimizer="muon", learning_rate=0.01),
        replace(FAST, block_epochs=1, features=0.5, norms="freeze", augment="none"),
        replace(FAST, precision="bf16", ema=0.0),
    ],
)
def test_the_same_seed_gives_the_same_weights_bit_by_bit(recipe: Recipe) -> None:
    student, teacher = networks()
    first, again = (distil(student, teacher, data(), recipe, device="cpu").model for _ in range(2))
    other = distil(student, teacher, data(), replace(recipe, seed=1), device="cpu").model
    assert same_weights(first, again)
    assert not same_weights(first, other)


def test_torch_goes_on_as_if_nothing_had_been_trained() -> None:
    student, teacher = networks()
    state = torch.get_rng_state()
    distil(student, teacher, data(), FAST, device="cpu")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_epochs_of_the_sites_alone_leave_everything_else_as_it_is(optimizer: Any) -> None:
    """And bring each nearer to what its dense layer gives."""
    student, teacher = networks()
    recipe = replace(FAST, epochs=2, block_epochs=2, optimizer=optimizer)
    done = distil(student, teacher, data(), recipe, device="cpu")
    own, theirs = student.state_dict(), done.model.state_dict()
    changed = {name for name, value in own.items() if not torch.equal(value, theirs[name])}
    assert changed
    assert {name.split(".")[0] for name in changed} <= {"0", "3"}
    assert done.epochs[1].loss < done.epochs[0].loss


@pytest.mark.parametrize(("norms", "are_moved"), [("update", True), ("auto", False), ("freeze", False)])
def test_small_batches_do_not_move_the_statistics_of_a_norm(norms: Any, *, are_moved: bool) -> None:
    student, teacher = networks()
    recipe = replace(FAST, batch=8, epochs=1, norms=norms)
    trained = distil(student, teacher, data(16), recipe, device="cpu").model
    mean = student.get_buffer("1.running_mean")
    assert torch.equal(trained.get_buffer("1.running_mean"), mean) != are_moved


def test_labels_are_learnt() -> None:
    student, teacher = networks()
    labels = torch.arange(48) % 2
    recipe = replace(FAST, epochs=4, cross_entropy=1.0)
    done = distil(student, teacher, data(), recipe, labels=labels, device="cpu")
    assert done.after.loss < done.before.loss


@pytest.mark.parametrize("last", [5, -1])
@pytest.mark.parametrize("come_in_batches", [False, True])
def test_labels_that_name_no_output_are_refused(last: int, *, come_in_batches: bool) -> None:
    """Even in the last batch: in an array before any step."""
    labels = torch.arange(96) % 2
    labels[-1] = last
    recipe = replace(FAST, cross_entropy=0.1, augment="none")
    steps: list[int] = []
    given: dict[str, Any] = {"data": data(96), "labels": labels}
    if come_in_batches:
        given = {"data": list(zip(torch.chunk(data(96), 6), torch.chunk(labels, 6), strict=True))}
    with pytest.raises(UserInputError, match=r"labels go from .*, the networks give 5 classes; .* from 0 to 4"):
        distil(*networks(), recipe=recipe, device="cpu", progress=lambda *told: steps.append(told[1]), **given)
    assert steps == ([1, 2, 3, 4, 5] if come_in_batches else [])


class Scores:
    """Gives one score after the other."""

    def __init__(self, *scores: float) -> None:
        self.left = list(scores)

    def __call__(self, predict: Predictor) -> float:
        assert predict(np.zeros((3, 3, 24, 24), np.float32)).shape == (3, 5)
        return self.left.pop(0)


def test_the_weights_of_the_best_score_are_kept() -> None:
    student, teacher = networks()
    recipe = replace(FAST, epochs=3)
    told: list[Any] = []
    best = distil(student, teacher, data(), recipe, evaluate=Scores(0, 1, 5, 3), device="cpu", told=told.append)
    last = distil(student, teacher, data(), replace(recipe, keep="last"), evaluate=Scores(9, 1, 5, 3), device="cpu")
    assert (best.kept_epoch, last.kept_epoch) == (2, 3)
    assert not same_weights(best.model, last.model)
    assert [one.score for one in told] == [1, 5, 3]
    assert [one.remaining > 0 for one in told] == [True, True, False]


@pytest.mark.parametrize("score", [float("nan"), None, "high"])
def test_a_score_that_is_no_number_is_refused(score: Any) -> None:
    with pytest.raises(UserInputError, match=r"distil: evaluate: returned .*expected one finite number"):
        distil(*networks(), data(), FAST, device="cpu", evaluate=lambda _predict: score)


def test_training_ends_where_the_score_is_reached() -> None:
    student, teacher = networks()
    recipe = replace(FAST, epochs=5, stop_at=4.0)
    assert len(distil(student, teacher, data(), recipe, evaluate=Scores(0, 1, 4, 9), device="cpu").epochs) == 2


def test_a_student_that_scores_enough_is_not_trained() -> None:
    student, teacher = networks()
    recipe = replace(FAST, stop_at=4.0)
    done = distil(student, teacher, data(), recipe, evaluate=Scores(4), device="cpu")
    assert (done.epochs, done.kept_epoch) == ((), 0)
    assert same_weights(done.model, student)


def test_a_student_that_no_epoch_betters_is_given_back(tmp_path: Path) -> None:
    """Also where it is read from a checkpoint: nothing is scored again."""
    student, teacher = networks()
    file = tmp_path / "run.pt"
    done = distil(student, teacher, data(), FAST, evaluate=Scores(3, 1, 3), device="cpu", checkpoint=file)
    assert (len(done.epochs), done.kept_epoch) == (2, 0)
    assert same_weights(done.model, student)
    again = distil(student, teacher, data(), FAST, evaluate=Scores(), device="cpu", checkpoint=file)
    assert again.kept_epoch == 0


def test_too_few_steps_for_a_schedule_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "kronexport"):
        distil(*networks(), data(), FAST, device="cpu")
    assert "6 steps in all, too few" in caplog.text
    assert "give more epochs than 2, more images, or fewer images a step than 16" in caplog.text
    caplog.clear()
    distil(*networks(), data(), replace(FAST, epochs=7), device="cpu")
    assert not caplog.text


def test_progress_counts_steps_of_all_epochs() -> None:
    student, teacher = networks()
    steps: list[tuple[str, int, int]] = []
    distil(student, teacher, data(), FAST, device="cpu", progress=lambda *told: steps.append(told))
    assert steps == [("recover", done, 6) for done in range(1, 7)]


def test_a_network_of_images_is_taught_by_its_images() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1))
    student = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1))
    done = distil(student, teacher, data(), replace(FAST, epochs=4), device="cpu")
    assert done.after.error < 0.7 * done.before.error


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (1e9, r"after epoch 1: \S+ has \d+ NaN and \d+ infinite .*learning rate below 1e\+37"),
        (0.0, r"after epoch 1 the outputs are (nan|inf) times .*learning rate below 1e\+37"),
    ],
)
def test_a_last_step_that_ruins_the_network_is_told(tmp_path: Path, features: float, message: str) -> None:
    """The loss before it was finite. Weights that are not reach no checkpoint."""
    recipe = replace(FAST, epochs=1, batch=48, learning_rate=1e37, schedule="cosine", ema=0.0, features=features)
    with pytest.raises(UserInputError, match=message):
        distil(*networks(), data(), recipe, device="cpu", checkpoint=tmp_path / "run.pt")
    assert not (tmp_path / "run.pt").exists()


def test_a_network_that_went_far_away_is_not_trained_on(tmp_path: Path) -> None:
    """All its numbers are finite. It reaches no checkpoint."""
    recipe = replace(FAST, epochs=3, learning_rate=30.0, schedule="cosine", ema=0.0)
    with pytest.raises(UserInputError, match=r"after epoch 1 the outputs are [\d.e+]+ times .*began at 0\.\d"):
        distil(*networks(), data(), recipe, device="cpu", checkpoint=tmp_path / "run.pt")
    assert not (tmp_path / "run.pt").exists()


class Tables(nn.Module):
    """A conv whose pixels are gathered by an index and masked by infinities, as attention has them."""

    index: torch.Tensor
    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.register_buffer("index", torch.arange(576).flip(0))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pixels: torch.Tensor = self.conv(x).flatten(2)[:, :, self.index].mean(2)
        return (pixels + self.mask).softmax(1)


def test_what_is_no_weight_is_not_averaged() -> None:
    """Averages of whole numbers would be cut off to the next lower one, those of infinities be NaN."""
    teacher, student = Tables(), Tables()
    trained = distil(student, teacher, data(), replace(FAST, epochs=8, ema=0.999), device="cpu").model
    for name in ("index", "mask"):
        assert torch.equal(trained.get_buffer(name), student.get_buffer(name))
    assert not torch.equal(trained.get_parameter("conv.weight"), student.get_parameter("conv.weight"))


def test_labels_may_want_other_logits_than_the_teacher_gives() -> None:
    """Larger ones than those of a teacher that is hardly sure of anything."""
    student, teacher = networks()
    last = teacher.get_submodule("7")
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.mul_(0.01)
    student.get_submodule("7").load_state_dict(last.state_dict())
    recipe = replace(FAST, epochs=8, cross_entropy=1.0, optimizer="adamw", learning_rate=0.01)
    done = distil(student, teacher, data(), recipe, labels=torch.zeros(48, dtype=torch.long), device="cpu")
    assert done.after.error > done.before.error + 1
    assert done.after.loss < done.before.loss


def test_what_is_set_of_cudnn_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    seen: list[Any] = []

    class Watching(nn.Sequential):
        def forward(self, x: torch.Tensor) -> Any:
            seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic))
            return self[0](x)

    teacher = Watching(nn.Conv2d(3, 3, 1))
    distil(nn.Sequential(nn.Conv2d(3, 3, 1)), teacher, data(), FAST, device="cpu")
    assert set(seen) == {(False, True)}
    assert not torch.backends.cudnn.deterministic


def diverging() -> Recipe:
    return replace(FAST, learning_rate=1e30, ema=0.0)


class InTraining(nn.Module):
    """The student as it is in eval mode; in training ``change`` is made to what it gives."""

    def __init__(self, change: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.change = networks()[0], change

    def forward(self, x: torch.Tensor) -> Any:
        given = self.inner(x)
        return self.change(given) if self.training else given


def raises(_given: torch.Tensor) -> Any:
    raise RuntimeError("not enough memory")


class NoGradient(torch.autograd.Function):
    """A function whose backward pass raises."""

    @staticmethod
    def forward(_context: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(_context: Any, *_grad: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not enough memory")


class Raises(nn.Module):
    """A network that takes no images."""

    def forward(self, _x: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such axis")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": diverging()}, r"the loss is (nan|inf) in epoch 1 at step \d.*learning rate below 1e\+30"),
        ({"student": Raises()}, "no parameter of the student asks for gradients"),
        ({"teacher": Raises()}, "the teacher's forward of 16 images: raised ValueError: no such axis"),
        (
            {"student": InTraining(raises)},
            "student's forward of 16 images in training: raised RuntimeError: not enough",
        ),
        ({"student": InTraining(NoGradient.apply)}, "the backward pass of 16 images: raised RuntimeError: not enough"),
        (
            {"student": InTraining(lambda y: (y, y))},
            r"the student gives \[\[16, 5\], \[16, 5\]\], the teacher \[\[16, 5\]\]",
        ),
        ({"student": nn.Conv2d(3, 4, 3)}, r"the student gives \[\[16, 4, 22, 22\]\], the teacher \[\[16, 5\]\]"),
        ({"student": networks()[1], "recipe": replace(FAST, features=1.0)}, "the student has none"),
        ({"student": "text"}, "the student is a str"),
        ({"recipe": replace(FAST, stop_at=0.9)}, "stop_at=0.9 needs a score"),
    ],
)
def test_what_cannot_be_trained_is_refused(change: dict[str, Any], message: str) -> None:
    student, teacher = networks()
    given = {"student": student, "teacher": teacher, "data": data(), "recipe": FAST, **change}
    with pytest.raises(UserInputError, match=message):
        distil(**given, device="cpu")


def test_a_gpu_trains_in_half_precision(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    student, teacher = networks()
    recipe = replace(FAST, precision="fp16", epochs=4)
    done = distil(student, teacher, data(), recipe, device="cuda", checkpoint=tmp_path / "run.pt")
    assert done.after.loss < done.before.loss
    assert {value.device.type for value in done.model.state_dict().values()} == {"cpu"}
