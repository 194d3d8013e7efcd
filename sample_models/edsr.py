"""EDSR for x4 super-resolution (Lim et al., CVPR Workshops 2017): residual blocks without BatchNorm.

State-dict keys are those of the public EDSR-PyTorch: ``sub_mean, add_mean`` (fixed 1x1 convs), ``head.0``,
``body.{i}.body.{0,2}``, ``body.{n}``, ``tail.0.{0,2}``, ``tail.1``. Pixels are 0..255 on both sides.
"""

from typing import cast

import torch
from torch import Tensor, nn

_PIXEL_RANGE = 255.0
_RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K, which the public weights were trained on


class MeanShift(nn.Conv2d):
    """Adds ``sign`` times DIV2K's mean colour to [N, 3, H, W]; a conv that training leaves alone."""

    def __init__(self, sign: int) -> None:
        super().__init__(3, 3, 1)
        self.weight = nn.Parameter(torch.eye(3).view(3, 3, 1, 1), requires_grad=False)
        self.bias = nn.Parameter(sign * _PIXEL_RANGE * torch.tensor(_RGB_MEAN), requires_grad=False)


def _conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


class ResidualConvs(nn.Module):
    """conv, ReLU, conv, plus the input: [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv3x3(channels, channels), nn.ReLU(), _conv3x3(channels, channels))

    @property
    def branch_end(self) -> nn.Conv2d:
        return cast("nn.Conv2d", self.body[2])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + x
        return out


class EDSR(nn.Module):
    """[N, 3, H, W] pixels 0..255 -> [N, 3, 4 H, 4 W] pixels 0..255."""

    def __init__(self, blocks: int, channels: int) -> None:
        super().__init__()
        self.sub_mean = MeanShift(-1)
        self.add_mean = MeanShift(1)
        self.head = nn.Sequential(_conv3x3(3, channels))
        self.body = nn.Sequential(*(ResidualConvs(channels) for _ in range(blocks)), _conv3x3(channels, channels))
        upsampler = nn.Sequential(
            _conv3x3(channels, 4 * channels),
            nn.PixelShuffle(2),
            _conv3x3(channels, 4 * channels),
            nn.PixelShuffle(2),
        )
        self.tail = nn.Sequential(upsampler, _conv3x3(channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.sub_mean(x))
        pixels: Tensor = self.add_mean(self.tail(self.body(x) + x))
        return pixels


def edsr8() -> EDSR:
    """8 blocks of 128 channels: 3,696,643 learnable parameters."""
    return EDSR(blocks=8, channels=128)
