"""Random shifts, flips and mixtures of a whole batch at once, so that they cost next to nothing on a CPU."""

import torch
from torch import Tensor

from kronexport.recover.recipe import Augment

_PART = 8
"""An image is shifted by at most so small a part of itself."""


def augmented(images: Tensor, kind: Augment) -> Tensor:
    """``images`` [N, C, H, W] of any type, each shifted and, for ``shift-flip``, flipped left to right at random.

    What a shift uncovers is a reflection. Drawn from torch's own generator of the CPU.
    """
    if kind == "none":
        return images
    count, channels, height, width = images.shape
    rows = _shifted(height, count)
    columns = _shifted(width, count)
    if kind == "shift-flip":
        flips = torch.rand(count, 1) < 0.5  # noqa: PLR2004  # as often as not
        columns = torch.where(flips, columns.flip(1), columns)
    places = (
        torch.arange(count)[:, None, None, None],
        torch.arange(channels)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    )
    return images[tuple(place.to(images.device) for place in places)]


def mixed(images: Tensor, part: float) -> Tensor:
    """``images``, floats [N, C, H, W]: so large a part of them each mixed with another of the batch (mixup).

    A mixed image is share * one + (1 - share) * other, the share uniform in 0 to 1 (Zhang, Cisse, Dauphin, Lopez-Paz,
    2018; for a teacher without labels: Beyer et al., 2022). Drawn from torch's own generator of the CPU.
    """
    if not part:
        return images
    count = len(images)
    shares = torch.where(torch.rand(count) < part, torch.rand(count), torch.ones(count))
    others = images[torch.randperm(count)]
    return torch.lerp(others, images, shares[:, None, None, None].to(images))


def _shifted(size: int, count: int) -> Tensor:
    """[count, size]: where the pixels of an axis come from, a random shift an image."""
    most = size // _PART
    shifts = torch.randint(-most, most + 1, (count, 1))
    places = (torch.arange(size) + shifts).abs()
    return (size - 1) - (size - 1 - places).abs()
