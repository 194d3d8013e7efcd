from collections.abc import Callable

import pytest
import torch
from torch import nn

from sample_models.resnet import ResNet, resnet18, resnet34, resnet50


@pytest.mark.parametrize(
    ("architecture", "params", "entries"),
    [(resnet18, 11_689_512, 122), (resnet34, 21_797_672, 218), (resnet50, 25_557_032, 320)],
)
def test_size_is_torchvision_s(architecture: Callable[[], ResNet], params: int, entries: int) -> None:
    with torch.device("meta"):
        model = architecture()
    assert sum(parameter.numel() for parameter in model.parameters()) == params
    assert len(model.state_dict()) == entries


def test_keys_and_shapes_are_torchvision_s() -> None:
    with torch.device("meta"):
        state = resnet50().state_dict()
    shapes = {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_mean": (64,),
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.running_var": (256,),
        "layer3.5.conv2.weight": (256, 256, 3, 3),
        "layer4.2.bn3.bias": (2048,),
        "fc.weight": (1000, 2048),
        "fc.bias": (1000,),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


def test_bottleneck_strides_in_its_3x3_conv() -> None:
    with torch.device("meta"):
        model = resnet50()
    strided = [
        name for name, module in model.named_modules() if isinstance(module, nn.Conv2d) and module.stride == (2, 2)
    ]
    inside = [f"layer{i}.0.{end}" for i in (2, 3, 4) for end in ("downsample.0", "conv2")]
    assert sorted(strided) == sorted(["conv1", *inside])


@pytest.mark.parametrize("architecture", [resnet18, resnet50])
def test_an_image_gives_1000_logits(architecture: Callable[[], ResNet]) -> None:
    with torch.device("meta"):
        logits = architecture()(torch.empty(2, 3, 224, 224))
    assert logits.shape == (2, 1000)
