"""EDSR x4 of 64 channels, the width of the published baseline, which is no sample."""

from functools import partial

from torch import nn

from sample_models.edsr import EDSR
from sample_models.seeding import seeded

BLOCKS, CHANNELS = 8, 64


def edsr64() -> nn.Module:
    """[N, 3, H, W] -> [N, 3, 4 H, 4 W] with seeded weights."""
    return seeded(partial(EDSR, BLOCKS, CHANNELS), 1.0)
