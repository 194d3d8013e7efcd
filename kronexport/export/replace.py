"""A model with its sites replaced by KroneckerConv2d and KroneckerLinear."""

import copy
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import nn

from kronexport.errors import UserInputError, named
from kronexport.export.module import KroneckerConv2d, KroneckerLayer, KroneckerLinear
from kronexport.factorize.calibrate import Calibration, fit_network
from kronexport.factorize.decompose import decompose
from kronexport.factorize.network import KroneckerNetwork, check_group, relative_error
from kronexport.records import Structure
from kronexport.survey.sites import layer_at, layer_geometry, layer_weight


def site_weights(model: nn.Module, sites: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
    """Weight [F, C / group, kh, kw] of each named conv or linear layer."""
    return {site: layer_weight(layer_at(model, site)).numpy() for site in sites}


def factorized(
    model: nn.Module,
    structures: Mapping[str, Structure],
    calibration: Calibration | None,
    progress: Callable[[int, int], None],
    kept: Mapping[str, KroneckerNetwork] | None = None,
) -> nn.Module:
    """A copy of ``model`` in which each named layer is a KroneckerLayer; the others are copied as they are.

    Args:
        model: in eval mode, on the CPU, float32.
        structures: by the name of an nn.Conv2d or nn.Linear, in order of execution.
        calibration: what the factors are fitted to; None: the weights alone.
        progress: told (done, total) sites as they are fitted.
        kept: the factors of further layers, which stay as they are.

    Raises:
        UserInputError: a structure does not fit its weight or its groups, or the images give NaN or infinite
            activations.
    """
    for site, structure in structures.items():
        check_group(structure, layer_geometry(layer_at(model, site)).group, site)
    if calibration is None:
        networks = {}
        for site, structure in structures.items():
            with named(site):
                networks[site] = decompose(layer_weight(layer_at(model, site)).numpy(), structure)
    else:
        networks = fit_network(model, structures, calibration, progress)
    return with_networks(model, networks | dict(kept or {})).eval()


def with_networks(model: nn.Module, networks: Mapping[str, KroneckerNetwork]) -> nn.Module:
    """A copy of ``model`` in which each named layer is a KroneckerLayer of its network; bias and all else stay.

    Raises:
        UserInputError: a network's weight has another shape than the layer's, or does not suit its groups.
    """
    replaced = copy.deepcopy(model)
    for site, network in networks.items():
        layer = layer_at(replaced, site)
        module = (
            KroneckerLinear.replacing(layer, network, site)
            if isinstance(layer, nn.Linear)
            else KroneckerConv2d.replacing(layer, network, site)
        )
        replaced.set_submodule(site, module, strict=True)
    return replaced


def kronecker_modules(model: nn.Module) -> dict[str, KroneckerLayer]:
    """The factorized sites by name, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, KroneckerLayer)}


def without_factors(model: nn.Module) -> tuple[nn.Module, dict[str, KroneckerNetwork]]:
    """The dense network that a model with factorized layers computes, and what ``with_networks`` puts back into it.

    Args:
        model: is changed: its KroneckerLayers become nn.Conv2d and nn.Linear of their ``to_dense()``.

    Raises:
        UserInputError: a layer has a forward of its own or hooks, pads as no nn.Conv2d does, or is the whole model.
    """
    networks = {site: module.network() for site, module in kronecker_modules(model).items()}
    plain: dict[KroneckerLayer, nn.Module] = {}
    for site, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, KroneckerLayer):
            with named(f"MODEL: {site or type(module).__name__}"):
                _check_plain(site, module)
                plain[module] = plain.get(module) or module.dense_layer()
            model.set_submodule(site, plain[module], strict=True)
    return model, networks


def _check_plain(site: str, layer: KroneckerLayer) -> None:
    """Refuse a layer of which its factors do not say all."""
    if not site:
        raise UserInputError("is the whole model; put it into an nn.Sequential")
    if type(layer).forward not in (KroneckerConv2d.forward, KroneckerLinear.forward):
        raise UserInputError(f"is a {type(layer).__name__}, which has a forward of its own; expected KroneckerConv2d")
    if layer._forward_hooks or layer._forward_pre_hooks:  # noqa: SLF001  # torch has no public way to ask
        raise UserInputError("has hooks, which would be lost; remove them first")


def weight_errors(dense: nn.Module, model: nn.Module) -> dict[str, float]:
    """||W - W^|| / ||W|| of every site that is factorized in ``model`` and was not in ``dense``."""
    before = kronecker_modules(dense)
    return {
        site: relative_error(layer_weight(layer_at(dense, site)).numpy(), module.network().to_dense())
        for site, module in kronecker_modules(model).items()
        if site not in before
    }
