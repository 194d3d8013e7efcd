"""Calibration batches of the samples, from the CIFAR-10 training images that ship here.

Networks for larger images get these scaled up: real photographs, though soft ones.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sample_models import cifar10

_SCALED_IMAGES = 16


def cifar10_images() -> NDArray[np.float32]:
    """[512, 3, 32, 32], normalized."""
    return cifar10.normalize(cifar10.read_sample("train").pixels)


def imagenet_images() -> NDArray[np.float32]:
    """[16, 3, 224, 224], scaled up from 32 x 32 and normalized."""
    return cifar10.normalize(_scaled_pixels(224))


def edsr_patches() -> NDArray[np.float32]:
    """[16, 3, 64, 64], scaled up from 32 x 32; pixels 0..255."""
    return _scaled_pixels(64).astype(np.float32)


def srresnet_patches() -> NDArray[np.float32]:
    """[16, 3, 64, 64], scaled up from 32 x 32; pixels 0..1."""
    return edsr_patches() / np.float32(255)


def _scaled_pixels(size: int) -> NDArray[np.uint8]:
    """The first 16 training images, bilinearly scaled: uint8 [16, 3, size, size]."""
    pixels = cifar10.read_sample("train").pixels[:_SCALED_IMAGES]
    scaled = [
        np.asarray(Image.fromarray(image.transpose(1, 2, 0)).resize((size, size), Image.Resampling.BILINEAR))
        for image in pixels
    ]
    return np.ascontiguousarray(np.stack(scaled).transpose(0, 3, 1, 2))
