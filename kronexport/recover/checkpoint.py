"""A training run between two epochs, in a file: written whole or not at all, and taken only by a run that is alike.

Alike in what ``identity`` hashes; of the data that is the first batch.
"""

import hashlib
import io
import json
import pickle
import re
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from kronexport.errors import UserInputError
from kronexport.files import write_bytes_aside
from kronexport.recover.batches import Batch, seeded
from kronexport.recover.recipe import Recipe
from kronexport.survey.imports import call_user

_FAMILY = "kronexport distillation"
FORMAT = f"{_FAMILY} 4"
_FORWARD = "forward or number of threads"
_ADDRESS = re.compile(r"0x[0-9a-f]+")
"""Of an object, which differs from run to run."""
_UNREADABLE = (EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile)
"""What torch.load raises for a file that is damaged or something else."""


class CheckpointError(UserInputError):
    """A checkpoint cannot be gone on from."""


@dataclass(frozen=True, slots=True)
class EpochFigures:
    """One epoch: its mean training loss, and the score of the averaged weights where there is an evaluator.

    ``seconds`` is how long it took, ``remaining`` how long those after it will take, at the mean so far.
    """

    epoch: int
    loss: float
    score: float | None
    seconds: float
    remaining: float


@dataclass(frozen=True, slots=True)
class Saved:
    """A run after some epochs: ``state`` is the trainer's, ``kept`` that of the network that would be given back.

    ``start_score`` is that of the student as it came, None without an evaluator.
    """

    start_score: float | None
    figures: tuple[EpochFigures, ...]
    state: dict[str, Any]
    kept: dict[str, Any]


def identity(
    student: nn.Module, teacher: nn.Module, recipe: Recipe, first: Batch, steps: int, *, is_scored: bool
) -> dict[str, str]:
    """By what it is the hash of all that a run depends on.

    Args:
        student: as it is before training, in eval mode.
        teacher: of the run, on the same device and in eval mode.
        recipe: of the run.
        first: batch of the first epoch, which stands for all data, on the device of the networks.
        steps: of one epoch.
        is_scored: whether there is an evaluator, which decides on the epoch that is kept.
    """
    tensors = {"images": first.images} | ({} if first.labels is None else {"labels": first.labels})
    return {
        "student": network_hash(student),
        "teacher": network_hash(teacher),
        "recipe": hashlib.sha256(json.dumps(recipe.to_json(), sort_keys=True).encode()).hexdigest(),
        "data": _tensors_hash(tensors, str(steps)),
        "evaluator": str(is_scored),
        _FORWARD: forward_hash(student, teacher, first.images),
    }


def write_checkpoint(path: Path, run: dict[str, str], saved: Saved) -> None:
    """Replace the checkpoint of the epoch before.

    Raises:
        KronexportError: the disk is full; the checkpoint of the epoch before is as it was.
    """
    content = {
        "format": FORMAT,
        "run": run,
        "start_score": saved.start_score,
        "figures": [asdict(one) for one in saved.figures],
        "state": saved.state,
        "kept": saved.kept,
    }
    buffer = io.BytesIO()  # torch.save meets a full disk with an error that does not say so
    torch.save(content, buffer)
    write_bytes_aside(path, buffer.getvalue())


def read_checkpoint(path: Path, run: dict[str, str]) -> Saved | None:
    """What ``write_checkpoint`` wrote for the same run, on the CPU; None where there is no file.

    Raises:
        CheckpointError: it is damaged, no checkpoint, or one of another run; the message says what differs.
        UserInputError: it cannot be read, and may be whole.
    """
    if not path.exists():
        return None
    remedy = "delete it to start again, or name another file"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserInputError(
            f"checkpoint {path}: cannot be read ({error.strerror or error}); expected a file: name another one"
        ) from error
    except _UNREADABLE as error:
        raise CheckpointError(
            f"checkpoint {path}: is damaged, or no checkpoint ({type(error).__name__}); {remedy}"
        ) from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT and str(found).startswith(_FAMILY):
        raise CheckpointError(
            f"checkpoint {path}: is of another version of kronexport, {found!r}, expected {FORMAT!r}; finish it by "
            f"that version, or {remedy}"
        )
    if found != FORMAT:
        raise CheckpointError(f"checkpoint {path}: is no checkpoint of distil, expected {FORMAT!r}; {remedy}")
    differing = [name for name, found in run.items() if content["run"].get(name) != found]
    if differing:
        causes = [name for name in differing if name != _FORWARD] or differing  # the outputs follow from the others
        raise CheckpointError(
            f"checkpoint {path}: is of a run with another {' and another '.join(causes)}; expected the same, since "
            f"a run goes on as it began: {remedy}"
        )
    figures = tuple(EpochFigures(**one) for one in content["figures"])
    return Saved(content["start_score"], figures, content["state"], content["kept"])


def network_hash(model: nn.Module) -> str:
    """Of all values, and of what the layers say of themselves."""
    tensors = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    return _tensors_hash(tensors, _ADDRESS.sub("", repr(model)))


@torch.no_grad()
def forward_hash(student: nn.Module, teacher: nn.Module, images: Tensor) -> str:
    """Of all that both give for ``images``, bit by bit: a forward can change where values and layers do not.

    Raises:
        UserInputError: a forward raises.
    """
    found: dict[str, Tensor] = {}
    for name, network in (("student", student), ("teacher", teacher)):
        with seeded(0, 0, images.device):
            given = call_user(network, images.clone(), doing=f"distil: the {name}'s forward of {len(images)} images")
        tensors = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
        found |= {f"{name} {index}": tensor for index, tensor in enumerate(tensors)}
    return _tensors_hash(found, "")


def _tensors_hash(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
