"""A model with its sites replaced by KroneckerConv2d and KroneckerLinear, and the factors as a file."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

from kronexport.export.module import KroneckerConv2d, KroneckerLayer, KroneckerLinear
from kronexport.factorize.calibrate import Calibration, fit_network
from kronexport.factorize.decompose import decompose
from kronexport.factorize.network import KroneckerNetwork, check_group, relative_error
from kronexport.files import write_bytes_aside
from kronexport.records import Plan
from kronexport.survey.sites import SiteLayer, layer_at, layer_geometry, layer_weight


def site_weights(model: nn.Module, sites: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
    """Weight [F, C / group, kh, kw] of each named conv or linear layer."""
    return {site: layer_weight(layer_at(model, site)).numpy() for site in sites}


def factorized(
    model: nn.Module, plan: Plan, calibration: Calibration | None, progress: Callable[[int, int], None]
) -> nn.Module:
    """A copy of ``model`` in which every planned site is a KroneckerLayer; the other sites are copied as they are.

    Args:
        model: in eval mode.
        plan: sites in order of execution.
        calibration: what the factors are fitted to; None: the weights alone.
        progress: told (done, total) sites as they are fitted.

    Raises:
        UserInputError: a structure does not fit its weight or its groups, or the images give NaN or infinite
            activations.
    """
    structures = {choice.site: choice.structure for choice in plan.sites if choice.structure is not None}
    for site, structure in structures.items():
        check_group(structure, layer_geometry(layer_at(model, site)).group, site)
    if calibration is None:
        weights = site_weights(model, tuple(structures))
        networks = {site: decompose(weights[site], structure) for site, structure in structures.items()}
    else:
        networks = fit_network(model, structures, calibration, progress)
    replaced = copy.deepcopy(model)
    for site, network in networks.items():
        replaced.set_submodule(site, kronecker_layer(layer_at(replaced, site), network, site), strict=True)
    return replaced.eval()


def kronecker_layer(layer: SiteLayer, network: KroneckerNetwork, site: str) -> KroneckerLayer:
    """What takes the place of ``layer``, with its bias."""
    if isinstance(layer, nn.Linear):
        return KroneckerLinear(network, layer.bias, site)
    return KroneckerConv2d(network, layer_geometry(layer), layer.bias, site)


def kronecker_modules(model: nn.Module) -> dict[str, KroneckerLayer]:
    """The factorized sites by name, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, KroneckerLayer)}


def weight_errors(dense: nn.Module, model: nn.Module) -> dict[str, float]:
    """||W - W^|| / ||W|| of every factorized site."""
    return {
        site: relative_error(layer_weight(layer_at(dense, site)).numpy(), module.network().to_dense())
        for site, module in kronecker_modules(model).items()
    }


def save_factors(model: nn.Module, path: Path) -> None:
    """All factors as safetensors, keys ``SITE.factors.K``; the structures as JSON in the metadata ``structures``."""
    modules = kronecker_modules(model)
    tensors = {
        f"{site}.factors.{k}": factor.detach().contiguous()
        for site, module in modules.items()
        for k, factor in enumerate(module.factors)
    }
    structures = {
        site: {
            "method": module.structure.method,
            "ranks": module.structure.ranks,
            "factors": [[factor.rank_axes, *factor.size] for factor in module.structure.factors],
        }
        for site, module in modules.items()
    }
    # not save_file, which meets a full disk with an error of its own instead of an OSError
    write_bytes_aside(path, save(tensors, metadata={"structures": json.dumps(structures)}))
