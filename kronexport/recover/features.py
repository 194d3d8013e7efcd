"""What the factorized layers give, beside what the dense ones gave in their place."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kronexport.errors import UserInputError
from kronexport.survey.sites import SiteLayer

Outputs = dict[str, list[Tensor]]
"""By site its outputs in one forward pass, call by call."""


def factorized_sites(student: nn.Module, teacher: nn.Module) -> tuple[str, ...]:
    """Names of the convs and linear layers of ``teacher`` that are something else in ``student``."""
    found = dict(student.named_modules())
    return tuple(
        name
        for name, layer in teacher.named_modules()
        if isinstance(layer, SiteLayer) and name in found and type(found[name]) is not type(layer)
    )


@contextmanager
def outputs_of(model: nn.Module, sites: Collection[str]) -> Iterator[Outputs]:
    """Gathers what ``sites`` give as long as it lasts.

    Where the next module works in place, as a ReLU may, it is what that module made of it, in both networks.
    """
    found: Outputs = {site: [] for site in sites}

    def keeper(site: str) -> Any:
        return lambda _layer, _args, output: found[site].append(output)

    handles = [model.get_submodule(site).register_forward_hook(keeper(site)) for site in sites]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def cut_before(model: nn.Module, sites: Collection[str]) -> Iterator[None]:
    """No gradient flows through what ``sites`` get, so that each of them learns from its own output alone."""

    def cut(_layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(arg.detach() if isinstance(arg, Tensor) else arg for arg in args)

    handles = [model.get_submodule(site).register_forward_pre_hook(cut) for site in sites]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def feature_loss(given: Outputs, wanted: Outputs) -> Tensor:
    """Mean over sites and calls of mean (y - y_dense)^2 / variance of y_dense; a scalar.

    A site that says nothing, of variance 0, counts by the error alone.

    Raises:
        UserInputError: a site is called more often in one network than in the other.
    """
    odd = next((site for site in wanted if len(given[site]) != len(wanted[site])), None)
    if odd is not None:
        raise UserInputError(
            f"distil: the student calls {odd} {len(given[odd])} times where the teacher does {len(wanted[odd])} times; "
            f"expected as often: set features and block_epochs to 0"
        )
    pairs = [pair for site in wanted for pair in zip(given[site], wanted[site], strict=True)]
    return torch.stack([scaled_mse(ours.float(), theirs.float()) for ours, theirs in pairs]).mean()


def scaled_mse(given: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error in units of the variance of ``wanted``."""
    return torch.nn.functional.mse_loss(given, wanted) / _or_one(wanted.var(correction=0))


def scaled_l1(given: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute error in units of the standard deviation of ``wanted``."""
    return torch.nn.functional.l1_loss(given, wanted) / _or_one(wanted.std(correction=0))


def _or_one(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, torch.ones_like(scale))
