"""SRResNet for x4 super-resolution (Ledig et al., CVPR 2017) as its public weights have it: without BatchNorm.

State-dict keys are those of BasicSR's MSRResNet: ``conv_first``, ``body.{i}.{conv1,conv2}``, ``upconv1``, ``upconv2``,
``conv_hr``, ``conv_last``. Pixels are 0..1 on both sides.
"""

import torch.nn.functional as F  # PyTorch's own name for it
from torch import Tensor, nn

_SLOPE = 0.1


def _conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


class ResidualConvs(nn.Module):
    """conv, ReLU, conv, plus the input: [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(channels, channels)
        self.conv2 = _conv3x3(channels, channels)

    @property
    def branch_end(self) -> nn.Conv2d:
        return self.conv2

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(F.relu(self.conv1(x)))
        return x + out


class SRResNet(nn.Module):
    """[N, 3, H, W] pixels 0..1 -> [N, 3, 4 H, 4 W]: what is added to the image scaled up bilinearly."""

    def __init__(self, blocks: int, channels: int) -> None:
        super().__init__()
        self.conv_first = _conv3x3(3, channels)
        self.body = nn.Sequential(*(ResidualConvs(channels) for _ in range(blocks)))
        self.upconv1 = _conv3x3(channels, 4 * channels)
        self.upconv2 = _conv3x3(channels, 4 * channels)
        self.conv_hr = _conv3x3(channels, channels)
        self.conv_last = _conv3x3(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(_activated(self.conv_first(x)))
        for upconv in (self.upconv1, self.upconv2):
            out = _activated(F.pixel_shuffle(upconv(out), 2))
        out = self.conv_last(_activated(self.conv_hr(out)))
        return out + F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)


def _activated(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _SLOPE)


def srresnet() -> SRResNet:
    """16 blocks of 64 channels: 1,517,571 parameters."""
    return SRResNet(blocks=16, channels=64)
