"""A small network with images to calibrate it on."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

SHAPE = (1, 3, 24, 24)
"""Of its input."""


def small(first: int = 8, second: int = 12) -> nn.Sequential:
    """Two convs of ``first`` and ``second`` filters, a BatchNorm after the first; in eval mode."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, first, 3, padding=1),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, stride=2, padding=1, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(second, 5),
    ).eval()


def images(count: int, channels: int = 3, size: int = 24) -> NDArray[np.float32]:
    """Smooth along a row, so that neighbouring pixels are correlated."""
    noise = np.random.default_rng(0).standard_normal((count, channels, size, size))
    return (noise.cumsum(axis=3) / 4).astype(np.float32)
