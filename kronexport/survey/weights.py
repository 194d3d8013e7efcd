"""Weights files into a module: ``.safetensors``, ``.pt``, ``.pth``, ``.th`` and ``.npz``."""

import difflib
import pickle
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from kronexport.errors import UserInputError
from kronexport.survey.weight_files import check_weights_file

_LISTED = 5
_AVERAGE_COUNTER = "n_averaged"
"""What AveragedModel keeps beside the weights."""


def load_weights(module: nn.Module, path: Path) -> None:
    """Copies the tensors of a weights file into ``module``, cast to the type of each parameter.

    The file holds a state dict, or a mapping with one under ``state_dict`` or under whatever key holds the only one;
    names lose what a wrapper put before all of them, as ``module.`` (nn.DataParallel) or ``_orig_mod.``
    (torch.compile). Pickles are read with ``weights_only=True``: no code of the file is run.

    Raises:
        UserInputError: the file cannot be read or holds no state dict, or its names, shapes and kinds of numbers are
            not those of ``module``; up to five of each kind are listed.
    """
    own = module.state_dict()
    state = _without_wrappers(read_state_dict(path), own.keys())
    _check_tensors(state, {name: value for name, value in own.items() if isinstance(value, Tensor)}, path)
    missing, unexpected = _load(module, state, path)
    problems = [*_listed_missing(missing, unexpected, module), *_listed_unexpected(unexpected, missing, state)]
    if problems:
        raise UserInputError(
            "\n".join([f"{path}: its names are not those of the model:", *problems])
            + "\nGive the weights of this very architecture, or the factory that made them."
        )


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Names and CPU tensors of a weights file, as they are stored.

    Raises:
        UserInputError: unknown suffix, unreadable file, refused pickle, or no state dict in it.
    """
    check_weights_file(path)
    try:
        content = _READERS[path.suffix](path)
    except OSError as error:
        raise UserInputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except pickle.UnpicklingError as error:
        raise UserInputError(
            f"{path}: is refused: it holds Python objects besides tensors, or is damaged ({_first_line(error)}); "
            f"save the weights alone: torch.save(model.state_dict(), 'weights.pt') or a .safetensors file"
        ) from error
    except _UNREADABLE as error:
        raise UserInputError(
            f"{path}: is not a readable {path.suffix} file of weights ({_first_line(error)}); save it again"
        ) from error
    return _state_dict_in(content, path)


def check_finite(
    module: nn.Module, place: str, remedy: str = "take a checkpoint from before the training diverged"
) -> None:
    """Raises UserInputError if a parameter or a running statistic has a NaN or an infinity, or a buffer a NaN.

    Infinity in other buffers is let be: attention masks hold it on purpose.
    """
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        is_mask_like = not isinstance(tensor, nn.Parameter) and not name.rpartition(".")[2].startswith("running_")
        nans = int(tensor.isnan().sum())
        infinities = 0 if is_mask_like else int(tensor.isinf().sum())
        if nans or infinities:
            raise UserInputError(
                f"{place}: {name} has {nans} NaN and {infinities} infinite of {tensor.numel()} values; expected finite "
                f"numbers; {remedy}"
            )


def _read_torch(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> Any:
    return safetensors.torch.load_file(path)


def _read_npz(path: Path) -> Any:
    # numpy leaves the file open when it fails, so it is given an open one.
    with path.open("rb") as stream:
        archive = np.load(stream, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("it is a single array without a name")  # noqa: TRY004  # the file's fault, not the type's
        arrays = {name: np.asarray(archive[name]) for name in archive.files}
    texts = [name for name, array in arrays.items() if array.dtype.kind not in "biufc"]
    if texts:
        raise ValueError(f"{texts[0]} is {arrays[texts[0]].dtype}, not numbers")
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


_UNREADABLE = (
    *(RuntimeError, ValueError, EOFError, KeyError),
    *(zipfile.BadZipFile, zlib.error, safetensors.SafetensorError),
)

_READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": _read_safetensors,
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".th": _read_torch,
    ".npz": _read_npz,
}


def _state_dict_in(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict; what else lies beside them, as the number of an epoch, is left out."""
    found = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        nested = {str(key): value for key, value in content.items() if _is_state_dict(value)}
        held = content.get("state_dict")
        if not isinstance(held, Mapping):
            held = next(iter(nested.values())) if len(nested) == 1 else {} if nested else content
        if tensors := {str(name): value for name, value in held.items() if isinstance(value, Tensor)}:
            return tensors
        found = f"{len(nested)} state dicts, {_names(nested)}" if nested else f"the keys {_names(map(str, content))}"
    raise UserInputError(
        f"{path}: holds {found}; expected a state dict (name: tensor), or one under a key such as 'state_dict'; "
        f"save torch.save(model.state_dict(), 'weights.pt')"
    )


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(each, Tensor) for each in value.values())


def _without_wrappers(state: dict[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """``state`` without the beginning common to all names after which most of them are the model's ``own``."""
    if _AVERAGE_COUNTER not in own:
        state = {name: tensor for name, tensor in state.items() if name != _AVERAGE_COUNTER}
    *parts, _ = next(iter(state), "").split(".")
    beginnings = ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts) + 1)]
    common = [beginning for beginning in beginnings if all(name.startswith(beginning) for name in state)]
    best = max(common, key=lambda beginning: sum(name.removeprefix(beginning) in own for name in state))
    return {name.removeprefix(best): tensor for name, tensor in state.items()}


def _check_tensors(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> None:
    """Refuse other shapes, and integers where the model has floats: a cast would leave out what they are scaled by."""
    wrong = [
        f"  {name}: got {_shape(state[name])}, expected {_shape(value)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    if wrong:
        raise UserInputError(
            "\n".join([f"{path}: {len(wrong)} tensors have another shape than in the model:", *_first(wrong)])
            + "\nGive the weights of this very architecture (width, number of classes, input channels)."
        )
    wrong = [
        f"  {name}: got {state[name].dtype}, expected {value.dtype}"
        for name, value in own.items()
        if name in state and value.is_floating_point() and not state[name].is_floating_point()
    ]
    if wrong:
        raise UserInputError(
            "\n".join([f"{path}: {len(wrong)} tensors hold other numbers than the model's floats:", *_first(wrong)])
            + "\nGive the weights as floats, from before they were quantized."
        )


def _load(module: nn.Module, state: dict[str, Tensor], path: Path) -> tuple[list[str], list[str]]:
    """Loads what fits; the missing and the unexpected names, as the module itself sees them."""
    try:
        result = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserInputError(f"{path}: the model refuses these weights ({_first_line(error)})") from error
    return _without_loaded(result.missing_keys, state, module), list(result.unexpected_keys)


def _without_loaded(missing: Sequence[str], state: Mapping[str, Tensor], module: nn.Module) -> list[str]:
    """Of the missing names those whose tensor has not come under another one, as safetensors saves what is shared."""
    own = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    loaded = {(own[name].data_ptr(), own[name].shape) for name in state if name in own}
    return [name for name in missing if name not in own or (own[name].data_ptr(), own[name].shape) not in loaded]


def _listed_missing(missing: Sequence[str], unexpected: Sequence[str], module: nn.Module) -> list[str]:
    own = module.state_dict()
    lines = [f"  {name} {_shape(own.get(name))}{_near(name, unexpected, 'the file has')}" for name in missing]
    return [f"{len(missing)} missing in the file:", *_first(lines)] if missing else []


def _listed_unexpected(unexpected: Sequence[str], missing: Sequence[str], state: Mapping[str, Tensor]) -> list[str]:
    lines = [f"  {name} {_shape(state.get(name))}{_near(name, missing, 'the model has')}" for name in unexpected]
    return [f"{len(unexpected)} unknown to the model:", *_first(lines)] if unexpected else []


def _near(name: str, others: Sequence[str], owner: str) -> str:
    close = difflib.get_close_matches(name, others, n=1, cutoff=0.6)
    return f" ({owner} {close[0]})" if close else ""


def _first(lines: Sequence[str]) -> list[str]:
    rest = len(lines) - _LISTED
    return [*lines[:_LISTED], *([f"  and {rest} more"] if rest > 0 else [])]


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join([repr(name) for name in listed[:_LISTED]] + (["..."] if len(listed) > _LISTED else []))


def _shape(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else ""


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
