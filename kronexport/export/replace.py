"""A model with its convolutions replaced by KroneckerConv2d, and the factors as a file."""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

from kronexport.export.module import KroneckerConv2d
from kronexport.factorize.calibrate import Calibration, fit_network
from kronexport.factorize.decompose import decompose
from kronexport.factorize.network import KroneckerNetwork, check_group, relative_error
from kronexport.files import write_bytes_aside
from kronexport.records import Plan, Structure
from kronexport.survey.sites import conv_at, conv_geometry


def site_weights(model: nn.Module, sites: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
    """Weight [F, C / group, kh, kw] of each named conv."""
    return {site: conv_at(model, site).weight.detach().numpy() for site in sites}


def factorized(
    model: nn.Module, plan: Plan, calibration: Calibration | None, progress: Callable[[int, int], None]
) -> nn.Module:
    """A copy of ``model`` in which every planned site is a KroneckerConv2d; the other sites are copied as they are.

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
        check_group(structure, conv_at(model, site).groups, site)
    replaced = copy.deepcopy(model)
    for site, network in _networks(model, structures, calibration, progress).items():
        conv = conv_at(replaced, site)
        module = KroneckerConv2d(network, conv_geometry(conv), conv.bias, site)
        replaced.set_submodule(site, module, strict=True)
    return replaced.eval()


def _networks(
    model: nn.Module,
    structures: Mapping[str, Structure],
    calibration: Calibration | None,
    progress: Callable[[int, int], None],
) -> dict[str, KroneckerNetwork]:
    """Fitted to the images; to the weight alone without images, and at grouped convs, which a fit cannot take."""
    fitted = {site: s for site, s in structures.items() if calibration and conv_at(model, site).groups == 1}
    weights = site_weights(model, tuple(site for site in structures if site not in fitted))
    networks = {site: decompose(weight, structures[site]) for site, weight in weights.items()}
    return networks | fit_network(model, fitted, calibration, progress) if calibration else networks


def kronecker_modules(model: nn.Module) -> dict[str, KroneckerConv2d]:
    """The factorized sites by name, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, KroneckerConv2d)}


def weight_errors(dense: nn.Module, model: nn.Module) -> dict[str, float]:
    """||W - W^|| / ||W|| of every factorized site."""
    return {
        site: relative_error(conv_at(dense, site).weight.detach().numpy(), module.network().to_dense())
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
