"""Builds a sample network by name, with its trained weights where they ship. Needs torch, unlike the registry."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from sample_models.cifar_resnet import CifarResNet
from sample_models.edsr import edsr8
from sample_models.mobilenetv2 import MobileNetV2
from sample_models.resnet import resnet18, resnet34, resnet50
from sample_models.seeding import RELU_GAIN, seeded
from sample_models.seresnet import SEResNet50
from sample_models.srresnet import srresnet
from sample_models.vgg import vgg11

ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "resnet20": partial(CifarResNet, 20),
    "resnet32": partial(CifarResNet, 32),
    "resnet44": partial(CifarResNet, 44),
    "resnet56": partial(CifarResNet, 56),
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "mobilenetv2": MobileNetV2,
    "seresnet50": SEResNet50,
    "vgg11": vgg11,
    "edsr8": edsr8,
    "srresnet": srresnet,
}

COMPRESSED = {"resnet32-cp-5x": "resnet32", "resnet32-gkpd-5x": "resnet32"}
"""Those whose weights are factors, with the dense network that was compressed."""

# EDSR is linear but for one ReLU a block.
_GAINS = {"edsr8": 1.0}


def build_trained(name: str, weights: Path) -> nn.Module:
    """The network in eval mode with the values of a safetensors file; the caller's random state stays as it was.

    Raises RuntimeError if the keys or shapes are not the architecture's; for a compressed network UserInputError, also
    where its file is missing.
    """
    with torch.random.fork_rng(devices=[]):
        model = ARCHITECTURES[COMPRESSED.get(name, name)]()
    if name in COMPRESSED:
        from kronexport.export.factors_file import load_compressed  # noqa: PLC0415  no other sample needs it

        return load_compressed(model, weights).eval()
    model.load_state_dict(load_file(weights))
    return model.eval()


def build_seeded(name: str) -> nn.Module:
    """The network in eval mode with seeded weights (``sample_models.seeding``)."""
    return seeded(ARCHITECTURES[name], _GAINS.get(name, RELU_GAIN))
