"""The loss of a student's outputs against its teacher's, and against labels."""

from collections.abc import Sequence

import torch.nn.functional as F  # PyTorch's own name for it
from torch import Tensor

from kronexport.errors import UserInputError
from kronexport.recover.features import scaled_l1, scaled_mse
from kronexport.recover.recipe import Recipe

_LOGITS_RANK = 2


def output_loss(given: Sequence[Tensor], wanted: Sequence[Tensor], labels: Tensor | None, recipe: Recipe) -> Tensor:
    """(1 - c) sum over outputs of the loss to the teacher + c cross-entropy of the first output; a scalar.

    Args:
        given: outputs of the student, one a tensor that it returns; the first are logits [N, K] where the recipe asks
            for cross-entropy.
        wanted: the teacher's, of the same shapes.
        labels: int64 [N], from 0 to K - 1, looked at where the recipe asks for cross-entropy.
        recipe: c is its ``cross_entropy``.
    """
    ours, theirs = [output.float() for output in given], [output.float() for output in wanted]
    taught = sum(map(_taught, ours, theirs, [recipe] * len(ours)), start=ours[0].new_zeros(()))
    if labels is None or not recipe.cross_entropy:
        return taught
    return (1 - recipe.cross_entropy) * taught + recipe.cross_entropy * F.cross_entropy(ours[0], labels)


def _taught(given: Tensor, wanted: Tensor, recipe: Recipe) -> Tensor:
    """Of one output, as ``Recipe.loss`` says."""
    kind = recipe.loss
    if kind == "auto":
        kind = "kl" if given.ndim == _LOGITS_RANK and given.shape[1] > 1 else "mse"
    if kind == "mse":
        return scaled_mse(given, wanted)
    if kind == "l1":
        return scaled_l1(given, wanted)
    warmth = recipe.temperature
    ours, theirs = F.log_softmax(given / warmth, 1), F.log_softmax(wanted / warmth, 1)
    # over axis 1 a sum, over images and places a mean
    return warmth**2 * F.kl_div(ours, theirs, reduction="none", log_target=True).sum(1).mean()


def check_outputs(given: Sequence[Tensor], wanted: Sequence[Tensor], recipe: Recipe) -> None:
    """Refuse networks whose outputs cannot be compared.

    Raises:
        UserInputError: they differ in number or shape, there are none, or they are no logits where those are needed.
    """
    ours, theirs = [list(output.shape) for output in given], [list(output.shape) for output in wanted]
    if ours != theirs or not ours:
        raise UserInputError(
            f"distil: the student gives {ours or 'no tensor'}, the teacher {theirs or 'no tensor'}; expected outputs "
            f"of the same shapes: take the network that the student was made of as the teacher"
        )
    if recipe.cross_entropy and (given[0].ndim != _LOGITS_RANK or given[0].shape[1] == 1):
        raise UserInputError(
            f"distil: cross_entropy needs logits [N, K] of two classes or more as the first output, got {ours[0]}; "
            f"leave the labels out, or set cross_entropy=0"
        )
    alone = next((shape for shape in ours if len(shape) < _LOGITS_RANK or shape[1] == 1), None)
    if recipe.loss == "kl" and alone is not None:
        raise UserInputError(
            f"distil: loss='kl' compares classes along axis 1, and an output has the shape {alone}, which has one or "
            f"none; take 'mse' or 'l1'"
        )


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuse labels that name no output.

    Args:
        labels: int64 [n].
        classes: K of the logits.

    Raises:
        UserInputError: one is below 0, or ``classes`` or above.
    """
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= classes:
        raise UserInputError(
            f"distil: labels go from {least} to {most}, the networks give {classes} classes; expected labels from 0 to "
            f"{classes - 1}"
        )
