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
) -> nn.Module:
    """A copy of ``model`` in which each named layer is a KroneckerLayer; the others are copied as they are.

    Args:
        model: in eval mode, on the CPU, float32.
        structures: by the name of an nn.Conv2d or nn.Linear, in order of execution.
        calibration: what the factors are fitted to; None: the weights alone.
        progress: told (done, total) sites as they are fitted.

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
    return with_networks(model, networks).eval()


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


def check_dense(model: nn.Module) -> None:
    """Refuse a model that a build could not compare with its dense self.

    Raises:
        UserInputError: it holds factorized layers.
    """
    held = list(kronecker_modules(model))
    if held:
        raise UserInputError(
            f"MODEL: {held[0]}{f' and {len(held) - 1} more layers' if held[1:] else ''}: factorized already; expected "
            "the dense network, which build factorizes itself"
        )


def weight_errors(dense: nn.Module, model: nn.Module) -> dict[str, float]:
    """||W - W^|| / ||W|| of every site that is factorized in ``model`` and was not in ``dense``."""
    before = kronecker_modules(dense)
    return {
        site: relative_error(layer_weight(layer_at(dense, site)).numpy(), module.network().to_dense())
        for site, module in kronecker_modules(model).items()
        if site not in before
    }
