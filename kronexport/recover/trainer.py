"""Student, its descent and its moving average: what moves in training, step by step and epoch by epoch."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_leaves

from kronexport.errors import UserInputError
from kronexport.recover.batches import Batch
from kronexport.recover.features import cut_before, factorized_sites, feature_loss, outputs_of
from kronexport.recover.losses import check_labels, check_outputs, output_loss
from kronexport.recover.optimizers import Descent
from kronexport.recover.recipe import Recipe
from kronexport.survey.imports import call_user
from kronexport.survey.weights import check_finite

LEAST_FOR_NORMS = 16
"""Images a batch from which on its mean and variance are good enough for a BatchNorm to go by."""
_WARM_UP = 10
"""The moving average is over a tenth of the steps so far, until that is longer than its decay says."""
_AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_BATCH_NORM = torch.nn.modules.batchnorm._BatchNorm  # noqa: SLF001  # torch has no public name for them all


class Trainer:
    """Trains a student in place.

    Args:
        student: on ``device``; some parameters ask for gradients.
        teacher: in eval mode, on ``device``.
        recipe: how.
        steps: of one epoch.
        device: where.

    Raises:
        UserInputError: nothing can be trained, or the recipe asks for sites and none is factorized.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, recipe: Recipe, steps: int, device: torch.device
    ) -> None:
        self.student, self.teacher, self.recipe, self.device = student, teacher, recipe, device
        uses_sites = recipe.features > 0 or recipe.block_epochs > 0
        self._sites = factorized_sites(student, teacher) if uses_sites else ()
        if uses_sites and not self._sites:
            raise UserInputError(
                "distil: features and block_epochs need factorized layers, and the student has none in the place of a "
                "conv or linear layer of the teacher; set both to 0, or give the network that compress returns"
            )
        self._descent = Descent(student, recipe, recipe.epochs * steps)
        self._scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self._average = AveragedModel(student, multi_avg_fn=_average_of(recipe.ema), use_buffers=True)

    @property
    def averaged(self) -> nn.Module:
        """The student by its moving average, in eval mode."""
        module: nn.Module = self._average.module
        return module.eval()

    def train_epoch(self, batches: Iterator[Batch], epoch: int, told: Callable[[int], None]) -> float:
        """One pass; the mean loss. ``told`` is given the number of steps done.

        Raises:
            UserInputError: the loss, or a value of the averaged network after the last step, is NaN or infinite.
        """
        total, step = 0.0, 0
        for step, batch in enumerate(batches, 1):
            alone = epoch <= self.recipe.block_epochs
            self._set_mode(len(batch.images), alone=alone)
            loss = self._step(batch, alone=alone)
            if not math.isfinite(loss):
                raise UserInputError(
                    f"distil: the loss is {loss} in epoch {epoch} at step {step}, expected a finite number; "
                    f"{remedy(self.recipe)}, and look at the images and labels of this step"
                )
            total += loss
            told(step)
        check_finite(self.averaged, f"distil: after epoch {epoch}", remedy(self.recipe))
        return total / step

    def outputs(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """Every tensor that ``model``, the teacher or a student, gives for a batch.

        Raises:
            UserInputError: its forward raises.
        """
        name = "teacher" if model is self.teacher else "student"
        mode = " in training" if model.training else ""
        doing = f"distil: the {name}'s forward of {len(batch.images)} images{mode}"
        with self._autocast():
            # a copy: a forward may change its input in place
            given = call_user(model, batch.images.to(self.device, non_blocking=True, copy=True), doing=doing)
        return [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]

    def loss(self, student: nn.Module, batch: Batch, *, alone: bool = False) -> Tensor:
        """The loss of a batch, differentiable; ``alone``: that of the sites and no other, each by itself.

        Raises:
            UserInputError: a forward raises, the outputs cannot be compared, or a label names none of them.
        """
        with outputs_of(self.teacher, self._sites) as wanted_sites, torch.no_grad():
            wanted = self.outputs(self.teacher, batch)
        cut = cut_before(student, self._sites) if alone else nullcontext()
        with outputs_of(student, self._sites) as given_sites, cut:
            given = self.outputs(student, batch)
        if alone:
            return feature_loss(given_sites, wanted_sites)
        check_outputs(given, wanted, self.recipe)
        labels = None
        if batch.labels is not None and self.recipe.cross_entropy:
            check_labels(batch.labels, given[0].shape[1])
            labels = batch.labels.to(self.device, non_blocking=True)
        loss = output_loss(given, wanted, labels, self.recipe)
        if self.recipe.features:
            loss = loss + self.recipe.features * feature_loss(given_sites, wanted_sites)
        return loss

    def state(self) -> dict[str, Any]:
        """All that moves, as tensors and plain values."""
        return {
            "student": self.student.state_dict(),
            "descent": self._descent.state(),
            "scaler": self._scaler.state_dict(),
            "average": self._average.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state()`` of a trainer that was made alike."""
        self.student.load_state_dict(state["student"])
        self._descent.load_state(state["descent"])
        self._scaler.load_state_dict(state["scaler"])
        self._average.load_state_dict(state["average"])

    def _step(self, batch: Batch, *, alone: bool) -> float:
        loss = self.loss(self.student, batch, alone=alone)
        value = float(loss.detach())
        if math.isfinite(value):
            self._descent.zero_grad()
            doing = f"distil: the backward pass of {len(batch.images)} images"
            call_user(self._scaler.scale(loss).backward, doing=doing)
            self._descent.step(self._scaler)
            self._average.update_parameters(self.student)
        return value

    def _set_mode(self, count: int, *, alone: bool) -> None:
        """Train mode, but for BatchNorms that have to stay as they are at ``count`` images; sites alone need none."""
        self.student.train(not alone)
        norms = self.recipe.norms
        if norms == "freeze" or (norms == "auto" and count < LEAST_FOR_NORMS):
            for module in self.student.modules():
                if isinstance(module, _BATCH_NORM):
                    module.eval()

    def _autocast(self) -> AbstractContextManager[Any]:
        precision = self.recipe.precision
        return torch.autocast(self.device.type, _AUTOCAST[precision], enabled=precision != "fp32")


def _average_of(decay: float) -> Callable[..., None]:
    """That of ``decay``, shorter in the first steps, in which the student has moved away from where it began.

    What is no number with a fraction, such as an index, is taken as it is, and so is what has not changed, such as a
    mask of infinities.
    """

    def average(averaged: Any, present: Any, count: Tensor) -> None:
        done = int(count)
        part = 1 - min(decay, (1 + done) / (_WARM_UP + done))
        for mean, value in zip(averaged, present, strict=True):
            if mean.is_floating_point():
                mean.copy_(torch.where(mean == value, mean, torch.lerp(mean, value, part)))
            else:
                mean.copy_(value)

    return average


def remedy(recipe: Recipe) -> str:
    """What to do where a number is no longer finite."""
    half = ", or precision fp32" if recipe.precision == "fp16" else ""
    return (
        f"train with a learning rate below {recipe.learning_rate:g}{half}, which the recipe sets (in a build "
        f"--set recipe.learning_rate=NUMBER)"
    )
