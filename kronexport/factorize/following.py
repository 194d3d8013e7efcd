"""What an error in each output channel of a site counts: as the BatchNorm that alone reads it lets it through."""

from collections import Counter
from collections.abc import Callable, Container, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from kronexport.factorize.passes import run
from kronexport.survey.sites import layer_at, layer_weight

_Norm = nn.BatchNorm1d | nn.BatchNorm2d


def row_weights(model: nn.Module, sites: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    """gamma^2 / (var + eps) [F] of the BatchNorm that alone reads a site's output; ones where none does.

    Args:
        model: in eval mode.
        sites: names of convs and linear layers.
        images: what the model is run on, once, to see what is called on which tensor.

    Raises:
        UserInputError: the forward raises.
    """
    rows = {site: torch.ones(len(layer_weight(layer_at(model, site)))) for site in sites}
    made: dict[int, tuple[str, Tensor]] = {}
    read_by: dict[str, _Norm] = {}
    norms = [module for module in model.modules() if isinstance(module, _Norm) and module.track_running_stats]

    def note(site: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def noted(layer: nn.Module, _args: Any, output: Tensor) -> None:
            if isinstance(layer, nn.Linear) and output.ndim > 2:  # noqa: PLR2004  its filters are not what a norm scales
                return
            made[id(output)] = site, output  # kept alive, so that no other tensor gets its id

        return noted

    def look_up(norm: nn.Module, args: tuple[Any, ...]) -> None:
        found = made.get(id(args[0])) if args else None
        if found is not None and isinstance(norm, _Norm):
            read_by[found[0]] = norm

    handles = [layer_at(model, site).register_forward_hook(note(site)) for site in sites]
    handles += [norm.register_forward_pre_hook(look_up) for norm in norms]
    try:
        with torch.no_grad(), _Reads(made) as reads:
            run(model, images)
    finally:
        for handle in handles:
            handle.remove()
    alone = {site for site, output in made.values() if reads.count[id(output)] == 1}
    return rows | {site: _gain(norm) for site, norm in read_by.items() if site in alone}


class _Reads(TorchFunctionMode):
    """Counts, by the id of a tensor in ``made``, the functions that make another tensor of it.

    Of other tensors nothing is counted: they may go, and a later one may get the id of one that went.
    """

    def __init__(self, made: Container[int]) -> None:
        super().__init__()
        self._made = made
        self.count: Counter[int] = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            self.count.update({id(leaf) for leaf in tree_leaves((args, kwargs)) if id(leaf) in self._made})
        return result


def _gain(norm: _Norm) -> Tensor:
    """[F]."""
    assert norm.running_var is not None  # noqa: S101  # for the type checker: only such norms are looked at
    gamma = torch.ones(norm.num_features) if norm.weight is None else norm.weight.detach()
    return gamma.square() / (norm.running_var + norm.eps)
