"""Forward passes that pause at every site, so that a whole network is walked once however many sites it has.

A pass runs as a coroutine (greenlet): at a site it hands over what the layer gets or gives, and rests with its
activations until the walker asks for the next site. Meanwhile the weight of the site may change; a pass that rests
before the conv goes on with the new one. torch keeps its modes (gradients, inference, autocast) a thread, not a
coroutine: what a forward has entered is put away while it rests.
"""

import copy
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn

from kronexport.errors import UserInputError
from kronexport.survey.imports import call_user
from kronexport.survey.sites import SiteLayer, columns, layer_at

_Tell = Callable[[Tensor], None]
_Watch = Callable[[SiteLayer, _Tell], None]


class Pass:
    """One forward pass over one batch of images; it starts when the first site is asked for."""

    def __init__(self, model: nn.Module, images: Tensor, sites: Collection[str], watch: _Watch) -> None:
        self._model = _twin(model)
        self._images = images
        for site in sites:
            watch(layer_at(self._model, site), _teller(site))
        self._run = greenlet(self._forward)
        self._put_away = ExitStack()

    def reach(self, site: str) -> Tensor:
        """Go on to the next site, which must be ``site``; what its conv gets or gives.

        Raises:
            UserInputError: the pass comes to another site or to its end, or the forward raises.
        """
        found = self._go_on(self._run.switch)
        if found is None or found[0] != site:
            raise UserInputError(
                f"is not executed in the same order for every calibration image; leave it out with --exclude {site}"
            )
        value: Tensor = found[1]
        return value

    def end(self) -> None:
        """Unwind the pass where it rests, and let go of its activations."""
        self._go_on(self._run.throw)
        self._put_away.close()

    def _go_on(self, switch: Callable[[], Any]) -> Any:
        """``switch()`` with the modes that the forward rests in; afterwards the walker's are as they were."""
        modes = _modes()
        self._put_away.close()
        found = switch()
        for mode in modes:
            self._put_away.enter_context(mode())
        return found

    def _forward(self) -> None:
        run(self._model, self._images)


def _modes() -> tuple[Callable[[], AbstractContextManager[None]], ...]:
    """What brings torch's present modes back, in this order: that of inference sets that of gradients too."""
    autocasts = (
        partial(torch.autocast, device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        for device in ("cpu", "cuda")
    )
    return (
        partial(torch.inference_mode, torch.is_inference_mode_enabled()),
        partial(torch.set_grad_enabled, torch.is_grad_enabled()),
        *autocasts,
    )


def run(model: nn.Module, images: Tensor) -> Any:
    """What ``model`` gives for ``images``, of which it gets a copy, since a forward may change its input in place.

    Raises:
        UserInputError: the forward raises.
    """
    return call_user(model, images.clone(), doing="--calibration: the model's forward")


@contextmanager
def passes(
    model: nn.Module, batches: Collection[Tensor], sites: Collection[str], watch: _Watch
) -> Iterator[list[Pass]]:
    """One pass a batch, all at their beginning; unwound at the end.

    Args:
        model: in eval mode; its weights may be changed in place while the passes rest.
        batches: images [N, C, H, W] each.
        sites: names of convs, at each of which a pass pauses.
        watch: ``at_input`` or ``at_output``.
    """
    begun = [Pass(model, images, sites, watch) for images in batches]
    with torch.no_grad():
        try:
            yield begun
        finally:
            for one in begun:
                one.end()


def at_input(layer: SiteLayer, tell: _Tell) -> None:
    """Pause before the layer and hand over its input [N, C, H, W]."""

    def before(_layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tell(_image(layer, args[0] if args else kwargs["input"]))

    layer.register_forward_pre_hook(before, with_kwargs=True)


def at_output(layer: SiteLayer, tell: _Tell) -> None:
    """Pause after the layer and hand over its output [N, F, H', W'] without bias."""

    def after(_layer: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        image = _image(layer, output)
        tell(image if layer.bias is None else image - layer.bias[:, None, None])

    layer.register_forward_hook(after)


def _image(layer: SiteLayer, x: Tensor) -> Tensor:
    single = x.float()  # autocast makes it less
    return columns(single) if isinstance(layer, nn.Linear) else single


def _teller(site: str) -> _Tell:
    def tell(value: Tensor) -> None:
        walker = getcurrent().parent
        assert walker is not None  # noqa: S101  # for the type checker: a pass runs in no other way
        walker.switch((site, value))

    return tell


def _twin(model: nn.Module) -> nn.Module:
    """A copy that shares the tensors: what a forward leaves in the module is its own, the weights are everyone's."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)
