"""A model with its sites replaced by KroneckerConv2d and KroneckerLinear, and the factors as a file."""

import copy
import json
from collections.abc import Callable, Mapping
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
from kronexport.records import Plan, Structure
from kronexport.survey.sites import layer_at, layer_geometry, layer_weight


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
    replaced = copy.deepcopy(model)
    for site, network in _networks(model, structures, calibration, progress).items():
        replaced.set_submodule(site, kronecker_layer(layer_at(replaced, site), network, site), strict=True)
    return replaced.eval()


def kronecker_layer(layer: nn.Conv2d | nn.Linear, network: KroneckerNetwork, site: str) -> KroneckerLayer:
    """What takes the place of ``layer``, with its bias."""
    if isinstance(layer, nn.Linear):
        return KroneckerLinear(network, layer.bias, site)
    return KroneckerConv2d(network, layer_geometry(layer), layer.bias, site)


def _networks(
    model: nn.Module,
    structures: Mapping[str, Structure],
    calibration: Calibration | None,
    progress: Callable[[int, int], None],
) -> dict[str, KroneckerNetwork]:
    """Fitted to the images; to the weight alone without images, and at linear layers, which a fit does not take."""
    convs = {site for site in structures if isinstance(layer_at(model, site), nn.Conv2d)}
    fitted = {site: structure for site, structure in structures.items() if calibration and site in convs}
    weights = site_weights(model, tuple(site for site in structures if site not in fitted))
    networks = {site: decompose(weight, structures[site]) for site, weight in weights.items()}
    return networks | fit_network(model, fitted, calibration, progress) if calibration else networks


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
