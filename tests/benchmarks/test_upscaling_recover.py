"""Upscaling tile by tile: no pixel is lost, doubled or moved."""

import numpy as np
import torch
import torch.nn.functional as F  # PyTorch's own name for it
from numpy.typing import NDArray
from PIL import Image

from benchmarks.upresnet10 import MARGIN
from benchmarks.upscaling_fitting import TILE, rgb
from benchmarks.upscaling_recover import by_tiles


def doubled(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each pixel inside of the margin as four."""
    assert tiles.shape == (1, 3, TILE, TILE)
    inner = tiles[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]
    return inner.repeat(2, axis=2).repeat(2, axis=3)


def test_an_image_of_no_whole_number_of_tiles_is_put_together() -> None:
    draw = np.random.default_rng(0)
    image = Image.fromarray(draw.integers(0, 256, (70, 150, 3), dtype=np.uint8))
    torch.testing.assert_close(by_tiles(doubled, image), F.interpolate(rgb([image]), scale_factor=2)[0], rtol=0, atol=0)


def test_a_tile_has_the_neighbours_that_it_has_in_the_image() -> None:
    """A predictor that looks as far as the margin goes sees them, but at the border."""
    draw = np.random.default_rng(0)
    image = Image.fromarray(draw.integers(0, 256, (128, 128, 3), dtype=np.uint8))

    def shifted(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        return doubled(np.roll(tiles, MARGIN, axis=3))

    expected = F.interpolate(rgb([image]).roll(MARGIN, 3), scale_factor=2)[0]
    found = by_tiles(shifted, image)
    torch.testing.assert_close(found[:, :, 2 * MARGIN :], expected[:, :, 2 * MARGIN :], rtol=0, atol=0)
