"""Single layers to time: a 3x3 conv with the BatchNorm and the Relu that networks have behind it."""

from functools import partial

from torch import nn

from kronexport.records import InputSpec, Site
from kronexport.survey.sites import survey
from sample_models.seeding import seeded

CONV = "0"
"""The conv's name in ``conv_layer``."""


def conv_layer(channels: int) -> nn.Module:
    """[N, channels, H, W] -> the same, with seeded weights."""
    return seeded(partial(_layer, channels))


def conv_site(layer: nn.Module, channels: int, size: int) -> Site:
    """The conv of a ``conv_layer`` on one image of ``size`` x ``size``, as a build sees it."""
    (site,) = survey(layer, InputSpec("input", (1, channels, size, size))).sites
    return site


def _layer(channels: int) -> nn.Module:
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())
