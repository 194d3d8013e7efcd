from collections.abc import Callable

import pytest
import torch
from torch import nn

from sample_models.vgg import VGG11, vgg11, vgg11_bn


@pytest.mark.parametrize(("architecture", "params"), [(vgg11, 132_863_336), (vgg11_bn, 132_868_840)])
def test_size_is_torchvision_s(architecture: Callable[[], VGG11], params: int) -> None:
    with torch.device("meta"):
        model = architecture()
    assert sum(parameter.numel() for parameter in model.parameters()) == params


@pytest.mark.parametrize(
    ("architecture", "convs"), [(vgg11, [0, 3, 6, 8, 11, 13, 16, 18]), (vgg11_bn, [0, 4, 8, 11, 15, 18, 22, 25])]
)
def test_layers_are_numbered_as_torchvision_s(architecture: Callable[[], VGG11], convs: list[int]) -> None:
    with torch.device("meta"):
        model = architecture()
    assert [i for i, layer in enumerate(model.features) if isinstance(layer, nn.Conv2d)] == convs
    assert [i for i, layer in enumerate(model.classifier) if isinstance(layer, nn.Linear)] == [0, 3, 6]


@pytest.mark.parametrize("architecture", [vgg11, vgg11_bn])
def test_an_image_gives_1000_logits(architecture: Callable[[], VGG11]) -> None:
    with torch.device("meta"):
        logits = architecture()(torch.empty(2, 3, 224, 224))
    assert logits.shape == (2, 1000)
