"""What moves the weights: AdamW, SGD, or Muon with AdamW for what has no matrix."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from kronexport.errors import UserInputError
from kronexport.recover.recipe import Recipe

_LEAST_AXES = 3
"""Filters and factors have as many axes or more; matrices of linear layers, biases and norms have fewer."""


class Descent:
    """A recipe's optimizers and their schedules, as one.

    Args:
        student: on its device; some parameters ask for gradients.
        recipe: how.
        steps: of all epochs.

    Raises:
        UserInputError: nothing can be trained.
    """

    def __init__(self, student: nn.Module, recipe: Recipe, steps: int) -> None:
        parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        if not parameters:
            raise UserInputError(
                "distil: no parameter of the student asks for gradients, so that nothing can be trained; call "
                "requires_grad_() of it, or of the layers to train"
            )
        self._student = student
        self._optimizers = _optimizers(parameters, recipe)
        self._schedules = [_schedule(optimizer, recipe, steps) for optimizer in self._optimizers]

    def zero_grad(self) -> None:
        """Forget the gradients of the student, and what the optimizers have of them."""
        self._student.zero_grad()
        for optimizer in self._optimizers:
            optimizer.zero_grad()

    def step(self, scaler: torch.amp.GradScaler) -> None:
        """One step along the gradients that the student has."""
        for optimizer in self._optimizers:
            if _has_gradients(optimizer):  # a scaler refuses one that has none
                scaler.step(optimizer)
            else:
                optimizer.step()
        scaler.update()
        for schedule in self._schedules:
            schedule.step()

    def state(self) -> list[dict[str, Any]]:
        """All that moves, of each optimizer and then of each schedule."""
        return [part.state_dict() for part in self._parts()]

    def load_state(self, state: list[dict[str, Any]]) -> None:
        """Go on from ``state()`` of one that was made alike."""
        for part, its in zip(self._parts(), state, strict=True):
            part.load_state_dict(its)

    def _parts(self) -> list[torch.optim.Optimizer | LRScheduler]:
        return [*self._optimizers, *self._schedules]


def _optimizers(parameters: list[nn.Parameter], recipe: Recipe) -> list[torch.optim.Optimizer]:
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "sgd":
        return [torch.optim.SGD(parameters, rate, momentum=0.9, nesterov=True, weight_decay=decay)]
    if recipe.optimizer == "adamw":
        return [torch.optim.AdamW(parameters, rate, weight_decay=decay)]
    made: list[torch.optim.Optimizer] = []
    matrices = [parameter for parameter in parameters if min(_sides(parameter)) > 1]
    if matrices:
        muon = torch.optim.Muon
        made.append(muon(map(_as_matrix, matrices), rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    others = [parameter for parameter in parameters if min(_sides(parameter)) <= 1]
    if others:
        made.append(torch.optim.AdamW(others, rate, weight_decay=decay))
    return made


def _sides(parameter: Tensor) -> tuple[int, int]:
    """Rows and columns of filters or a factor as a matrix of their first axes by the others; (0, 0): there is none.

    Cut where the shorter side is longest: F, C kh kw of filters [F, C, kh, kw]; R f, c of a factor [R, f, c, 1, 1].
    """
    if parameter.ndim < _LEAST_AXES or not parameter.numel():
        return 0, 0
    rows = [math.prod(parameter.shape[:at]) for at in range(1, parameter.ndim)]
    return max(((count, parameter.numel() // count) for count in rows), key=min)


def _has_gradients(optimizer: torch.optim.Optimizer) -> bool:
    return any(one.grad is not None for group in optimizer.param_groups for one in group["params"])


def _as_matrix(parameter: nn.Parameter) -> nn.Parameter:
    """In the same memory, and in each backward pass given the same gradient."""
    parameter.data = parameter.data.contiguous()
    matrix = nn.Parameter(parameter.detach().view(_sides(parameter)))

    def pass_on(whole: Tensor) -> None:
        matrix.grad = None if whole.grad is None else whole.grad.reshape(matrix.shape)

    parameter.register_post_accumulate_grad_hook(pass_on)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return matrix


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> LRScheduler:
    if recipe.schedule == "cosine":
        return CosineAnnealingLR(optimizer, steps)
    return OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps)
