"""``distil``: train a factorized network until it does what the dense one does (Hinton, Vinyals, Dean, 2015)."""

import copy
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from kronexport.errors import KronexportError, UserInputError
from kronexport.records import ProgressCallback, silent
from kronexport.recover.batches import Batch, Data, Source, seeded
from kronexport.recover.checkpoint import EpochFigures, Saved, identity, read_checkpoint, write_checkpoint
from kronexport.recover.losses import check_labels, check_outputs
from kronexport.recover.recipe import Recipe
from kronexport.recover.trainer import Trainer, remedy
from kronexport.survey.inputs import scored
from kronexport.survey.model import checked_module

log = logging.getLogger("kronexport")

STAGE = "recover"
_PROBED = 4
"""Batches on which loss and error are measured before and after."""
FAR = 1.0
"""By so much more than at first outputs may be off, as a part of their size: outputs of nothing but 0 are off by 1."""
FEW_STEPS = 20
"""Below that a schedule of learning rates has no time to go up and down."""
_DEFAULT = Recipe()

Predictor = Callable[[NDArray[np.float32]], NDArray[Any]]
Evaluator = Callable[[Predictor], float]
"""As ``--evaluate``: called with a predictor, gives one number, higher is better."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How far a network is from its teacher: the loss, and ||y - y_teacher|| / ||y_teacher||, in eval mode."""

    loss: float
    error: float


@dataclass(frozen=True, slots=True, eq=False)
class Distilled:
    """What came of it.

    ``model`` is in eval mode on the CPU, its weights the moving average after ``kept_epoch``; 0: the student as it
    came, where no epoch scored more. ``before`` and ``after`` are of the same first batches, ``before`` of that one.
    """

    model: nn.Module
    epochs: tuple[EpochFigures, ...]
    kept_epoch: int
    before: Fit
    after: Fit


def distil(
    student: nn.Module,
    teacher: nn.Module,
    data: Data,
    recipe: Recipe = _DEFAULT,
    *,
    labels: NDArray[Any] | Tensor | None = None,
    evaluate: Evaluator | None = None,
    checkpoint: str | Path | None = None,
    unwritable: Callable[[Exception], None] | None = None,
    device: str | None = None,
    progress: ProgressCallback = silent,
    told: Callable[[EpochFigures], None] | None = None,
) -> Distilled:
    """Train a copy of ``student`` to give what ``teacher`` gives.

    On the CPU the same arguments with as many threads give the same weights, bit by bit, interrupted or not. A GPU may
    differ in the last bits: not all of its kernels add up in one order.

    Args:
        student: the factorized network, such as ``compress(...).model``; it is not changed.
        teacher: the dense one; it is not changed.
        data: images [n, C, H, W] as the networks take them, or an iterable of batches with a length, as a DataLoader
            is one; batches may be pairs of images and labels.
        recipe: how.
        labels: [n] of whole numbers, for images in one array, where the recipe has cross-entropy.
        evaluate: scores the student as it came, and the averaged weights after every epoch.
        checkpoint: a file that is written after every epoch, and that a run which was interrupted goes on from.
        unwritable: told why the checkpoint cannot be written, after which the run goes on; None: that is raised.
        device: as torch names it; None: a GPU where there is one, else the CPU.
        progress: told ("recover", steps done, steps in all).
        told: of every epoch, also of those that a checkpoint holds.

    Raises:
        UserInputError: networks, data or checkpoint do not fit, loss or weights are no longer finite, or the outputs
            went far away from the teacher's.
        KronexportError: the disk is full; the checkpoint of the epoch before is there.
        OSError: the checkpoint's folder takes no files.
    """
    if recipe.stop_at is not None and evaluate is None:
        raise UserInputError(f"distil: stop_at={recipe.stop_at:g} needs a score to compare with; give evaluate")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    source = Source(data, labels, recipe)
    _warn_of_few(len(source) * recipe.epochs, recipe)
    teacher = copy.deepcopy(checked_module(teacher, "distil: the teacher is")).to(place).eval()
    start = copy.deepcopy(checked_module(student, "distil: the student is")).to(place).eval()
    trainer = Trainer(copy.deepcopy(start), teacher, recipe, len(source), place)
    clock = _Clock(progress, recipe.epochs, len(source), told)
    with _deterministic():
        first = _first_batches(source, recipe, place)
        before = _fit(trainer, start, first, source.labels)
        sample = first[0]._replace(images=first[0].images.to(place))
        file = None
        if checkpoint is not None:
            _make_folder(Path(checkpoint))
            run = identity(start, teacher, recipe, sample, len(source), is_scored=evaluate is not None)
            file = _File(Path(checkpoint), run, unwritable)
        check = partial(_check_near, trainer, first, before)
        saved = _trained(trainer, source, file, check, evaluate=evaluate, clock=clock)
        start.load_state_dict(saved.kept)
        after = _fit(trainer, start, first)
    return Distilled(start.cpu(), saved.figures, _kept_epoch(saved, recipe), before, after)


def _make_folder(checkpoint: Path) -> None:
    try:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserInputError(
            f"checkpoint {checkpoint}: its folder cannot be made ({error.strerror}); name a file in another one"
        ) from error


@contextmanager
def _deterministic() -> Iterator[None]:
    """Take only kernels of cuDNN that give the same bits each time; all else that is set of it stays."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def _warn_of_few(steps: int, recipe: Recipe) -> None:
    if steps < FEW_STEPS:
        log.warning(
            "distil: %d steps in all, too few for the learning rate to go up and down: give more epochs than %d, more "
            "images, or fewer images a step than %d (recipe.batch)",
            *(steps, recipe.epochs, recipe.batch),
        )


@dataclass(slots=True)
class _Clock:
    """Passes on what was done."""

    progress: ProgressCallback
    epochs: int
    steps: int
    told: Callable[[EpochFigures], None] | None

    def step(self, epoch: int, done: int) -> None:
        self.progress(STAGE, (epoch - 1) * self.steps + done, self.epochs * self.steps)

    def tell(self, figures: EpochFigures) -> None:
        if self.told is not None:
            self.told(figures)


@dataclass(frozen=True, slots=True)
class _File:
    """Where the checkpoint of ``run`` is; ``unwritable`` as for ``distil``."""

    path: Path
    run: dict[str, str]
    unwritable: Callable[[Exception], None] | None

    def write(self, saved: Saved) -> None:
        try:
            write_checkpoint(self.path, self.run, saved)
        except (OSError, KronexportError) as error:
            if self.unwritable is None:
                raise
            self.unwritable(error)


def _trained(
    trainer: Trainer,
    source: Source,
    file: _File | None,
    check: Callable[[int], None],
    *,
    evaluate: Evaluator | None,
    clock: _Clock,
) -> Saved:
    """The run at its end; ``file`` holds it after every epoch, and is gone on from where it is of the same run.

    ``check`` may refuse what an epoch, which it is told, made of the network.
    """
    begun = None if file is None else read_checkpoint(file.path, file.run)
    saved = begun or _unbegun(trainer, evaluate)
    if begun is not None:
        trainer.load_state(begun.state)
    for figures in saved.figures:
        clock.tell(figures)
    while not _is_done(saved, trainer.recipe):
        saved = _next_epoch(trainer, source, saved, evaluate, clock)
        check(saved.figures[-1].epoch)
        if file is not None:
            file.write(saved)
        clock.tell(saved.figures[-1])
    return saved


def _unbegun(trainer: Trainer, evaluate: Evaluator | None) -> Saved:
    """The run before its first epoch."""
    return Saved(_score(trainer, evaluate), (), {}, copy.deepcopy(trainer.averaged.state_dict()))


def _score(trainer: Trainer, evaluate: Evaluator | None) -> float | None:
    """Of the averaged weights."""
    if evaluate is None:
        return None
    return scored(evaluate, predictor(trainer.averaged, trainer.device), "distil: evaluate")


def _next_epoch(trainer: Trainer, source: Source, saved: Saved, evaluate: Evaluator | None, clock: _Clock) -> Saved:
    """The run after one more epoch."""
    recipe, epoch, started = trainer.recipe, len(saved.figures) + 1, time.monotonic()
    with seeded(recipe.seed, epoch, trainer.device):
        loss = trainer.train_epoch(source.epoch(epoch), epoch, lambda done: clock.step(epoch, done))
    score = _score(trainer, evaluate)
    took = time.monotonic() - started
    figures = EpochFigures(epoch, loss, score, took, _remaining(saved.figures, took, recipe.epochs))
    after = replace(saved, figures=(*saved.figures, figures), state=trainer.state())
    if _kept_epoch(after, recipe) == epoch:
        return replace(after, kept=copy.deepcopy(trainer.averaged.state_dict()))
    return after


def _check_near(trainer: Trainer, batches: list[Batch], before: Fit, epoch: int) -> None:
    """Refuse to go on where the averaged weights are further than ``FAR`` from where training began.

    Unless their loss fell: labels may want other logits than the teacher's.
    """
    now = _fit(trainer, trainer.averaged, batches)
    if not (now.error <= before.error + FAR or now.loss < before.loss):  # NaN is neither
        raise UserInputError(
            f"distil: after epoch {epoch} the outputs are {now.error:.3g} times their size from the teacher's, where "
            f"they began at {before.error:.3g}; {remedy(trainer.recipe)}"
        )


def _remaining(before: tuple[EpochFigures, ...], took: float, epochs: int) -> float:
    """Seconds of the epochs that are left, at the mean of those so far."""
    mean = (sum(one.seconds for one in before) + took) / (len(before) + 1)
    return mean * (epochs - len(before) - 1)


def _is_done(saved: Saved, recipe: Recipe) -> bool:
    if len(saved.figures) >= recipe.epochs:
        return True
    return recipe.stop_at is not None and any(score >= recipe.stop_at for score, _ in _scores(saved))


def _kept_epoch(saved: Saved, recipe: Recipe) -> int:
    """The first of the highest score, or the last where there are no scores or the recipe says so."""
    scored = _scores(saved)
    if recipe.keep == "last" or not scored:
        return len(saved.figures)
    return -max(scored)[1]


def _scores(saved: Saved) -> list[tuple[float, int]]:
    """With the epoch, negative, so that of equal scores the first is the highest; 0: before all epochs."""
    scored = [(saved.start_score, 0), *((one.score, -one.epoch) for one in saved.figures)]
    return [(score, epoch) for score, epoch in scored if score is not None]


def _first_batches(source: Source, recipe: Recipe, device: torch.device) -> list[Batch]:
    with seeded(recipe.seed, 1, device):
        return list(islice(source.epoch(1), _PROBED))


@torch.no_grad()
def _fit(trainer: Trainer, model: nn.Module, batches: list[Batch], labels: Tensor | None = None) -> Fit:
    """Over ``batches``; the networks are checked on them, too, and all ``labels`` [n] of the run at once.

    Raises:
        UserInputError: a forward raises, the outputs cannot be compared, or labels name none of them.
    """
    losses, distance, size = [], 0.0, 0.0
    for batch in batches:
        given, wanted = (trainer.outputs(network, batch) for network in (model, trainer.teacher))
        check_outputs(given, wanted, trainer.recipe)
        if labels is not None and trainer.recipe.cross_entropy:
            check_labels(labels, given[0].shape[1])
        losses.append(float(trainer.loss(model, batch)))
        for ours, theirs in zip(given, wanted, strict=True):
            distance += float((ours.double() - theirs.double()).square().sum())
            size += float(theirs.double().square().sum())
    return Fit(sum(losses) / len(losses), (distance / (size or 1.0)) ** 0.5)


def predictor(model: nn.Module, device: torch.device) -> Predictor:
    """``model`` as evaluators call it: an array of images -> its first output; of any number of images."""

    @torch.inference_mode()
    def predict(images: NDArray[np.float32]) -> NDArray[Any]:
        given = model(torch.tensor(np.asarray(images, np.float32), device=device))  # a copy, as for every forward
        output = next(leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor))
        found: NDArray[Any] = output.float().cpu().numpy()
        return found

    return predict
