"""The user's own training loop: called with both networks, and what it gives back is checked before it is shipped."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from kronexport.errors import UserInputError
from kronexport.survey.imports import call_user
from kronexport.survey.model import checked_module
from kronexport.survey.weights import check_finite

Loop = Callable[[nn.Module, nn.Module], nn.Module | None]
_NETWORKS = 2


def is_loop(function: Callable[..., Any], doing: str) -> bool:
    """Whether ``function`` takes two networks; one without arguments gives images.

    Raises:
        UserInputError: it can be called with neither.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # some callables written in C have none
        return False
    for count in (0, _NETWORKS):
        try:
            signature.bind(*[None] * count)
        except TypeError:
            continue
        return count == _NETWORKS
    raise UserInputError(
        f"{doing}: the function takes {signature}; expected (student, teacher), to train, or no arguments, to give "
        f"images"
    )


def trained_by(loop: Loop, student: nn.Module, teacher: nn.Module, doing: str) -> nn.Module:
    """What ``loop(student, teacher)`` makes of a copy of ``student``, in eval mode on the CPU.

    Args:
        loop: trains the student in place and returns None, or returns the trained network. Both networks that it gets
            are copies in eval mode.
        student: the factorized network.
        teacher: the dense one.
        doing: opens every message.

    Raises:
        UserInputError: the loop raises, gives back something else than a network of the same layers and sizes, or
            leaves values that are NaN or infinite.
    """
    own = copy.deepcopy(student).eval()
    found = call_user(loop, own, copy.deepcopy(teacher).eval(), doing=doing)
    trained = checked_module(own if found is None else found, f"{doing}: the function returned")
    _check_alike(student, trained, doing)
    trained = trained.to("cpu").float().eval()
    check_finite(trained, doing)
    return trained


def _check_alike(before: nn.Module, after: nn.Module, doing: str) -> None:
    """Layers by name and type, tensors by name and shape."""
    expected, got = _outline(before), _outline(after)
    if expected == got:
        return
    name = next(name for name in (*expected, *got) if expected.get(name) != got.get(name))
    raise UserInputError(
        f"{doing}: {name} is {got.get(name, 'missing')} after training, expected {expected.get(name, 'nothing')}; "
        f"train the values, and leave the layers as they are: the plan was made for them"
    )


def _outline(model: nn.Module) -> dict[str, str]:
    layers = {f"layer {name or '(model)'}": _kind(module) for name, module in model.named_modules()}
    tensors = {f"tensor {name}": str(list(value.shape)) for name, value in model.state_dict().items()}
    return layers | tensors


def _kind(module: nn.Module) -> str:
    """A layer with its options; a list of parameters by its type alone, as these speak for themselves."""
    options = "" if isinstance(module, nn.ParameterList) else module.extra_repr()
    return f"{type(module).__name__}({options})"
