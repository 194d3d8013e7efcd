"""Photographs as arrays of RGB pixels, uint8 [N, 3, H, W]."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def read_photo(path: Path) -> Image.Image:
    """RGB."""
    with Image.open(path) as image:
        return image.convert("RGB")


def pixels_of(images: Sequence[Image.Image]) -> NDArray[np.uint8]:
    """Images of one size -> [N, 3, H, W]."""
    return np.ascontiguousarray(np.stack([np.asarray(image) for image in images]).transpose(0, 3, 1, 2))


def image_of(pixels: NDArray[np.uint8]) -> Image.Image:
    """[3, H, W] -> an image."""
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def square(image: Image.Image, size: int) -> Image.Image:
    """The middle square, scaled to ``size`` (bicubic)."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)
