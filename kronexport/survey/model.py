"""MODEL on the command line, or a module given to a function -> an nn.Module, ready to be surveyed."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kronexport.errors import UserInputError
from kronexport.survey.exported import SUFFIX, Dim, load_exported
from kronexport.survey.imports import USER_EXCEPTIONS, call_user, describe, load_callable
from kronexport.survey.samples import sample_of
from kronexport.survey.weights import check_finite, load_weights
from sample_models.registry import Sample


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in eval mode on the CPU, its floating-point tensors float32.

    ``name`` is the MODEL as it was given, ``weights`` the file that was loaded into it. ``sample`` is set for a
    ``sample:NAME``, ``input_shape`` for an exported program: what it was exported for, None a size that it leaves open.
    """

    module: nn.Module
    name: str
    weights: Path | None = None
    sample: Sample | None = None
    input_shape: tuple[Dim, ...] | None = None


def load_model(spec: str, weights: Path | None = None) -> LoadedModel:
    """Calls the factory that ``spec`` names, loads ``weights`` into what it returns and checks them.

    The module belongs to kronexport from then on: it is put into eval mode, moved to the CPU and converted to float32
    in place, not copied.

    Args:
        spec: ``sample:NAME``, ``pkg.mod:factory`` or ``path/file.py:factory``; the factory takes no arguments. Or
            ``path/file.pt2``, which holds its weights.
        weights: A file for ``load_weights``; None keeps what the factory gave.

    Raises:
        UserInputError: whatever is wrong with the spec, the user's code or the weights.
    """
    if spec.endswith(SUFFIX):
        return _exported_model(spec, weights)
    sample = sample_of(spec)
    factory = sample.factory if sample else _user_factory(spec)
    module = call_user(factory, doing=f"MODEL {spec}: calling the factory")
    module = _ready(checked_module(module, f"MODEL {spec}: the factory returned"))
    if weights is not None:
        load_weights(module, weights)
    check_finite(module, str(weights) if weights is not None else f"MODEL {spec}")
    return LoadedModel(module, spec, weights, sample)


def copied_model(module: object, place: str) -> nn.Module:
    """A copy of the user's module in eval mode on the CPU, its floating-point tensors float32; checked.

    Args:
        module: what the user gave; it stays as it is, in whatever mode, on whatever device, of whatever precision.
        place: opens every message.

    Raises:
        UserInputError: as ``checked_module``; it cannot be copied, or a value is NaN or infinite.
    """
    given = checked_module(module, f"{place}: the model is")
    try:
        own = copy.deepcopy(given, _computed_tensors(given))
    except USER_EXCEPTIONS as error:
        raise UserInputError(
            f"{place}: the model cannot be copied ({describe(error)}); give one that copy.deepcopy takes, "
            f"such as a new one with the same state dict"
        ) from error
    own = _ready(own)
    check_finite(own, place)
    return own


def _computed_tensors(module: nn.Module) -> dict[int, Any]:
    """Copies, by id, of tensors that torch does not copy: weights that weight_norm or pruning computed in a forward."""
    values = (value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor))
    return {id(value): value.detach().clone() for value in values if not value.is_leaf}


def checked_module(module: object, place: str) -> nn.Module:
    """``module``, if it is an nn.Module with values; ``place`` opens every message and ends in a verb.

    Raises:
        UserInputError: it is something else, TorchScript or compiled, or a tensor has no shape or no values yet.
    """
    if not isinstance(module, nn.Module):
        raise UserInputError(f"{place} a {type(module).__name__}; expected a torch.nn.Module")
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise UserInputError(f"{place} TorchScript; expected the nn.Module that it was made of")
    if isinstance(getattr(module, "_orig_mod", None), nn.Module):
        raise UserInputError(f"{place} a compiled model; expected it as it was before torch.compile")
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(tensor):
            raise UserInputError(f"{place} a model whose {name} has no shape yet; run it once before")
        if tensor.is_meta:
            raise UserInputError(f"{place} a model whose {name} has no values (device 'meta'); build it on the CPU")
    return module


def _ready(module: nn.Module) -> nn.Module:
    return module.to("cpu").float().eval()


def _exported_model(spec: str, weights: Path | None) -> LoadedModel:
    if weights is not None:
        raise UserInputError(
            f"--weights {weights}: {spec} holds its weights; leave it out, or export with these weights"
        )
    exported = load_exported(Path(spec))
    module = _ready(checked_module(exported.module, f"MODEL {spec}: holds"))
    check_finite(module, f"MODEL {spec}")
    return LoadedModel(module, spec, input_shape=exported.input_shape)


def _user_factory(spec: str) -> Callable[..., Any]:
    factory = load_callable(spec, "MODEL")
    _check_takes_no_arguments(factory, spec)
    return factory


def _check_takes_no_arguments(factory: Callable[..., Any], spec: str) -> None:
    try:
        signature = inspect.signature(factory)
    except ValueError:  # some callables written in C have none; the call itself will tell
        return
    try:
        signature.bind()
    except TypeError as error:
        raise UserInputError(
            f"MODEL {spec}: the factory takes {signature}, but is called without arguments; "
            f"give them defaults, or name a function that calls it with them"
        ) from error
