"""The networks behind ``sample:NAME``: what each one is, what it takes in and how it is scored.

Importing this loads no torch: a network is built when its ``factory`` is called.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sample_models import calibration, evaluation
from sample_models.evaluation import Predictor

if TYPE_CHECKING:
    from torch import nn

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
_CIFAR_SHAPE = (1, 3, 32, 32)
_IMAGENET_SHAPE = (1, 3, 224, 224)


@dataclass(frozen=True, slots=True)
class Sample:
    """A network that brings all it needs to be built, calibrated and, if trained, scored.

    ``input_shape`` is static [N, C, H, W]; ``calibration`` returns float32 [n, C, H, W] as the network takes it.
    ``score`` takes a predictor and gives one number, higher is better; it means something for trained weights only,
    so ask ``evaluator`` for it.
    """

    name: str
    description: str
    input_shape: tuple[int, int, int, int]
    calibration: Callable[[], NDArray[np.float32]]
    score: Callable[[Predictor], float] | None = None

    @property
    def weights(self) -> Path:
        """Where the trained weights lie if there are any."""
        return WEIGHTS_FOLDER / f"{self.name}.safetensors"

    @property
    def trained(self) -> bool:
        return self.weights.is_file()

    @property
    def evaluator(self) -> Callable[[Predictor], float] | None:
        """``score`` if the network is trained, else None."""
        return self.score if self.trained else None

    def factory(self) -> "nn.Module":
        """The network in eval mode, with trained weights if there are any, else seeded ones.

        A compressed network has no seeded ones: without its file it raises UserInputError.
        """
        from sample_models import factories  # noqa: PLC0415  # loads torch

        if self.trained or self.name in factories.COMPRESSED:
            return factories.build_trained(self.name, self.weights)
        return factories.build_seeded(self.name)


def _cifar10_classifier(name: str, description: str) -> Sample:
    score = partial(evaluation.cifar10_top1, batch=_CIFAR_SHAPE[0])
    return Sample(name, description, _CIFAR_SHAPE, calibration.cifar10_images, score)


def _imagenet_classifier(name: str, description: str) -> Sample:
    return Sample(name, description, _IMAGENET_SHAPE, calibration.imagenet_images)


SAMPLES: dict[str, Sample] = {
    "resnet20": _cifar10_classifier("resnet20", "CIFAR-10 ResNet of depth 20"),
    "resnet32": _cifar10_classifier("resnet32", "CIFAR-10 ResNet of depth 32"),
    "resnet44": _cifar10_classifier("resnet44", "CIFAR-10 ResNet of depth 44"),
    "resnet56": _cifar10_classifier("resnet56", "CIFAR-10 ResNet of depth 56"),
    "resnet32-cp-5x": _cifar10_classifier("resnet32-cp-5x", "CIFAR-10 ResNet-32, CP, 5.05x fewer params"),
    "resnet32-gkpd-5x": _cifar10_classifier("resnet32-gkpd-5x", "CIFAR-10 ResNet-32, GKPD, 5.05x fewer params"),
    "resnet18": _imagenet_classifier("resnet18", "ImageNet ResNet-18"),
    "resnet34": _imagenet_classifier("resnet34", "ImageNet ResNet-34"),
    "resnet50": _imagenet_classifier("resnet50", "ImageNet ResNet-50, stride in the 3x3 conv"),
    "mobilenetv2": _imagenet_classifier("mobilenetv2", "ImageNet MobileNetV2 of width 1"),
    "seresnet50": _imagenet_classifier("seresnet50", "ImageNet SE-ResNet-50"),
    "vgg11": _imagenet_classifier("vgg11", "ImageNet VGG-11 without BatchNorm"),
    "edsr8": Sample(
        "edsr8",
        "EDSR x4 super-resolution, 8 blocks of 128 channels, pixels 0..255",
        (1, 3, 64, 64),
        calibration.edsr_patches,
    ),
    "srresnet": Sample(
        "srresnet",
        "SRResNet x4 super-resolution, 16 blocks of 64 channels, pixels 0..1",
        (1, 3, 64, 64),
        calibration.srresnet_patches,
    ),
}


def load_sample(name: str) -> Sample:
    """The sample of that name.

    Raises ValueError, naming the closest ones and all there are, if there is none.
    """
    if name in SAMPLES:
        return SAMPLES[name]
    close = difflib.get_close_matches(name, SAMPLES)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise ValueError(f"sample:{name}: no such sample; {hint}expected one of {', '.join(SAMPLES)}")
