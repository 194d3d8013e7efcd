"""What an error in each output channel of a site counts: as the BatchNorm after it lets it through."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kronexport.survey.sites import layer_at, layer_weight

_Norm = nn.BatchNorm1d | nn.BatchNorm2d


def row_weights(model: nn.Module, sites: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    """gamma^2 / (var + eps) [F] of the BatchNorm that is called on a site's output; ones where none is.

    Args:
        model: in eval mode.
        sites: names of convs and linear layers.
        images: what the model is run on, once, to see which module is called on which tensor.
    """
    rows = {site: torch.ones(len(layer_weight(layer_at(model, site)))) for site in sites}
    made: dict[int, tuple[str, Tensor]] = {}
    norms = [module for module in model.modules() if isinstance(module, _Norm)]

    def note(site: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def noted(layer: nn.Module, _args: Any, output: Tensor) -> None:
            if isinstance(layer, nn.Linear) and output.ndim > 2:  # noqa: PLR2004  its filters are not what a norm scales
                return
            made[id(output)] = site, output  # kept alive, so that no other tensor gets its id

        return noted

    def look_up(norm: nn.Module, args: tuple[Any, ...]) -> None:
        found = made.get(id(args[0])) if args else None
        if found is not None:
            rows[found[0]] = _gain(norm)

    handles = [layer_at(model, site).register_forward_hook(note(site)) for site in sites]
    handles += [norm.register_forward_pre_hook(look_up) for norm in norms if norm.track_running_stats]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return rows


def _gain(norm: nn.Module) -> Tensor:
    """[F]."""
    assert isinstance(norm, _Norm)  # noqa: S101  # for the type checker: the hook sits on nothing else
    assert norm.running_var is not None  # noqa: S101  # likewise
    gamma = torch.ones(norm.num_features) if norm.weight is None else norm.weight.detach()
    return gamma.square() / (norm.running_var + norm.eps)
