"""Samples load the state dicts that everybody has: the names of all their entries, network by network."""

from collections.abc import Iterable

import pytest
import torch

from sample_models.factories import ARCHITECTURES

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
CONV, PLAIN = ("weight", "bias"), ("weight",)


def entries(modules: Iterable[str], kinds: Iterable[str]) -> set[str]:
    return {f"{module}.{kind}" for module in modules for kind in kinds}


def cifar_resnet(depth: int) -> set[str]:
    """akamaster/pytorch_resnet_cifar10, with shortcuts that have no weights."""
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range((depth - 2) // 6)]
    convs = ["conv1", *(f"{block}.conv{index}" for block in blocks for index in (1, 2))]
    return entries(convs, PLAIN) | entries([c.replace("conv", "bn") for c in convs], NORM) | entries(["linear"], CONV)


def resnet(blocks: tuple[int, ...], convs: int) -> set[str]:
    """torchvision.models.resnet; the basic block of two convs has no shortcut in the first stage."""
    names = [f"layer{stage}.{block}" for stage, count in enumerate(blocks, 1) for block in range(count)]
    own = ["conv1", *(f"{name}.conv{index}" for name in names for index in range(1, convs + 1))]
    shortcuts = [f"layer{stage}.0.downsample" for stage in range(2 if convs == 2 else 1, 5)]
    norms = [*(name.replace("conv", "bn") for name in own), *(f"{name}.1" for name in shortcuts)]
    return entries([*own, *(f"{name}.0" for name in shortcuts)], PLAIN) | entries(norms, NORM) | entries(["fc"], CONV)


def mobilenetv2() -> set[str]:
    """torchvision.models.mobilenetv2: 17 inverted residuals, of which the first expands nothing."""
    convs, norms = ["features.0.0", "features.18.0"], ["features.0.1", "features.18.1"]
    for index in range(1, 18):
        parts = ("0.0", "1") if index == 1 else ("0.0", "1.0", "2")
        convs += [f"features.{index}.conv.{part}" for part in parts]
        follow = ("0.1", "2") if index == 1 else ("0.1", "1.1", "3")
        norms += [f"features.{index}.conv.{part}" for part in follow]
    return entries(convs, PLAIN) | entries(norms, NORM) | entries(["classifier.1"], CONV)


def seresnet50() -> set[str]:
    """Cadene's pretrainedmodels.senet."""
    named = {name for name in resnet((3, 4, 6, 3), 3) if not name.startswith("fc.")}
    own = {f"layer0.{name}" if name.startswith(("conv1.", "bn1.")) else name for name in named}
    blocks = [f"layer{stage}.{block}" for stage, count in enumerate((3, 4, 6, 3), 1) for block in range(count)]
    excitations = [f"{block}.se_module.{layer}" for block in blocks for layer in ("fc1", "fc2")]
    return own | entries([*excitations, "last_linear"], CONV)


def vgg11() -> set[str]:
    """torchvision.models.vgg, configuration A."""
    convs = [f"features.{index}" for index in (0, 3, 6, 8, 11, 13, 16, 18)]
    return entries([*convs, *(f"classifier.{index}" for index in (0, 3, 6))], CONV)


def edsr8() -> set[str]:
    """sanghyun-son/EDSR-PyTorch."""
    body = [f"body.{block}.body.{conv}" for block in range(8) for conv in (0, 2)]
    return entries(["sub_mean", "add_mean", "head.0", *body, "body.8", "tail.0.0", "tail.0.2", "tail.1"], CONV)


def srresnet() -> set[str]:
    """XPixelGroup/BasicSR, MSRResNet x4."""
    body = [f"body.{block}.conv{conv}" for block in range(16) for conv in (1, 2)]
    return entries(["conv_first", *body, "upconv1", "upconv2", "conv_hr", "conv_last"], CONV)


NAMES = {
    "resnet20": cifar_resnet(20),
    "resnet32": cifar_resnet(32),
    "resnet44": cifar_resnet(44),
    "resnet56": cifar_resnet(56),
    "resnet18": resnet((2, 2, 2, 2), 2),
    "resnet34": resnet((3, 4, 6, 3), 2),
    "resnet50": resnet((3, 4, 6, 3), 3),
    "mobilenetv2": mobilenetv2(),
    "seresnet50": seresnet50(),
    "vgg11": vgg11(),
    "edsr8": edsr8(),
    "srresnet": srresnet(),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_names_are_the_public_ones(name: str) -> None:
    with torch.device("meta"):
        assert set(ARCHITECTURES[name]().state_dict()) == NAMES[name]
