"""The ImageNet ResNet-50 of Keras, which differs from torchvision's in stride, eps and input."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from kronexport.survey.weights import load_weights
from sample_models.resnet import Bottleneck, ResNet, resnet50

_EPS = 1e-3
_BGR_MEAN = (103.939, 116.779, 123.68)


def keras_resnet50(weights: Path) -> ResNet:
    """In eval mode, with the weights of an .npz that has torchvision's keys.

    A stage has its stride in its first 1x1 conv (He et al., CVPR 2016), and BatchNorm an eps of 1e-3.

    Raises:
        UserInputError: the file holds no such weights.
    """
    model = resnet50()
    for norm in (part for part in model.modules() if isinstance(part, nn.BatchNorm2d)):
        norm.eps = _EPS
    for stage in (model.layer2, model.layer3, model.layer4):
        block = stage[0]
        assert isinstance(block, Bottleneck)  # noqa: S101  # for the type checker
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    load_weights(model, weights)
    return model.eval()


def preprocess(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """RGB [N, 3, H, W] -> BGR less the channel means."""
    mean = np.array(_BGR_MEAN, np.float32).reshape(1, 3, 1, 1)
    return np.ascontiguousarray(pixels[:, ::-1].astype(np.float32) - mean)
