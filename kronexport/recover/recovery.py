"""``--recover`` and ``--epochs`` of a build: what the factorized network is trained on before it is exported."""

import copy
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kronexport.cache import cache_folder, cached_file, code_key, content_key, warn_unwritable
from kronexport.errors import UserInputError
from kronexport.records import InputSpec, ProgressCallback, Training
from kronexport.recover.checkpoint import CheckpointError, forward_hash, network_hash
from kronexport.recover.distil import Distilled, Evaluator, distil
from kronexport.recover.own_loop import Loop, is_loop, trained_by
from kronexport.recover.recipe import Recipe
from kronexport.survey.imports import load_callable
from kronexport.survey.inputs import is_folder, load_images, load_labels

log = logging.getLogger("kronexport")

OPTION = "--recover"
LABELS_WEIGHT = 0.1
"""Of cross-entropy, where there are labels."""
VALUES_LIMIT = 2**29
"""Most values of all images together, 2 GiB."""


@dataclass(frozen=True, slots=True, eq=False)
class OwnLoop:
    """A training loop of the user's; ``source`` is as it was given."""

    source: str
    loop: Loop


@dataclass(frozen=True, slots=True, eq=False)
class Distillation:
    """Images [n, C, H, W] with or without labels [n]."""

    images: NDArray[np.float32]
    labels: NDArray[Any] | None
    recipe: Recipe


Recovery = OwnLoop | Distillation


def load_recovery(
    source: str | None,
    epochs: int | None,
    spec: InputSpec,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    recipe: Mapping[str, Any] = MappingProxyType({}),
) -> Recovery | None:
    """What ``--recover`` names; None where it is not given. ``recipe`` has fields of a Recipe that are not the usual.

    Raises:
        UserInputError: it cannot be read, or there are epochs or a recipe and nothing to train by them.
    """
    told = {"--epochs": epochs, "recipe": dict(recipe) or None}
    options = [f"{name} {value}" for name, value in told.items() if value is not None]
    if source is None:
        if options:
            raise UserInputError(f"{options[0]}: there is nothing to train on; give {OPTION} images/")
        return None
    doing = f"{OPTION} {source}"
    if _names_function(source):
        function = load_callable(source, OPTION)
        if is_loop(function, doing):
            if options:
                raise UserInputError(f"{options[0]}: {doing} is a training loop of its own; leave it out")
            return OwnLoop(source, function)
    limit = max(1, VALUES_LIMIT // int(np.prod(spec.shape[1:])))
    normal = (mean, std) if is_folder(source) else (None, None)
    images = load_images(source, spec, *normal, option=OPTION, limit=limit)
    labels = load_labels(source, len(images), OPTION)
    usual = {} if labels is None else {"cross_entropy": LABELS_WEIGHT}
    asked = {} if epochs is None else {"epochs": epochs}
    return Distillation(images, labels, Recipe(**usual | dict(recipe) | asked))


def recovered(
    recovery: Recovery,
    student: nn.Module,
    teacher: nn.Module,
    *,
    progress: ProgressCallback,
    evaluate: Evaluator | None = None,
    stop_at: float | None = None,
) -> tuple[nn.Module, Training]:
    """The student, trained, and what the report tells of it, but for its error, which is measured later.

    A distillation that was interrupted goes on where it was: its checkpoint is in the cache, by all that it depends on.

    Args:
        recovery: what to train with.
        student: the factorized network; it is not changed.
        teacher: the dense one.
        progress: told ("recover", steps done, steps in all).
        evaluate: scores the network after each epoch of a distillation; the best epoch is kept.
        stop_at: the score at which it ends; None: all epochs are trained.

    Raises:
        UserInputError: as ``distil`` and ``trained_by``.
    """
    if isinstance(recovery, OwnLoop):
        trained = trained_by(recovery.loop, student, teacher, f"{OPTION} {recovery.source}")
        return trained, Training("own loop")
    task = replace(recovery, recipe=replace(recovery.recipe, stop_at=stop_at))
    done = _distilled(task, student, teacher, evaluate=evaluate, progress=progress)
    return done.model, _told(done, task)


def _told(done: Distilled, task: Distillation) -> Training:
    return Training(
        kind="distillation",
        images=len(task.images),
        labels=task.labels is not None,
        epochs=len(done.epochs),
        kept_epoch=done.kept_epoch,
        recipe=task.recipe.to_json(),
        loss_before=done.before.loss,
        loss_after=done.after.loss,
    )


def _distilled(task: Distillation, student: nn.Module, teacher: nn.Module, **options: Any) -> Distilled:
    """``distil`` with a checkpoint in the cache; one that is damaged is removed."""
    options |= {"labels": task.labels, "unwritable": partial(warn_unwritable, cache_folder())}
    checkpoint = _checkpoint(_key(task, student, teacher, is_scored=options["evaluate"] is not None))
    try:
        return distil(student, teacher, task.images, task.recipe, checkpoint=checkpoint, **options)
    except CheckpointError as error:
        log.warning("%s; it is trained again", error)
        if checkpoint is not None:
            checkpoint.unlink()
        return distil(student, teacher, task.images, task.recipe, checkpoint=checkpoint, **options)


def _names_function(source: str) -> bool:
    path = Path(source).expanduser()
    return ":" in source and not path.exists() and path.suffix not in {".npy", ".npz"}


def _key(task: Distillation, student: nn.Module, teacher: nn.Module, *, is_scored: bool) -> str:
    arrays = [part for part in (task.images, task.labels) if part is not None]
    made_by = f"torch {torch.__version__}, GPU: {torch.cuda.is_available()}, scored: {is_scored}"
    first = torch.from_numpy(task.images[: task.recipe.batch])
    outputs = forward_hash(copy.deepcopy(student).eval(), copy.deepcopy(teacher).eval(), first)
    parts = [network_hash(student), network_hash(teacher), outputs, str(task.recipe), made_by]
    return content_key(
        code_key(), *map(str.encode, parts), *(np.ascontiguousarray(array).tobytes() for array in arrays)
    )


def _checkpoint(key: str) -> Path | None:
    """Where it is kept, None where nothing can be."""
    path = cached_file("recover", key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        warn_unwritable(path.parent, error)
        return None
    if not os.access(path.parent, os.W_OK):
        warn_unwritable(path.parent, PermissionError(f"{path.parent} takes no files"))
        return None
    return path
