"""UpResNet10 (x2 super-resolution) by GKPD: SVD against factors fitted without labels, no training.

    python -m benchmarks.upscaling_fitting --weights upresnet10.npz --photos FOLDER --out FOLDER

Scored by the PSNR of RGB on the lossless photographs (PNG), scaled to half their size (bicubic) and back by the
network. Calibrated on tiles of other photographs (JPEG), scaled to half. Finished rows are read from --out.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # PyTorch's own name for it
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from benchmarks.photos import pixels_of, read_photo
from benchmarks.planning import MEASURES, gkpd_candidates, least_error_plan, network_budget, network_reduction
from benchmarks.table import Rows, heading
from benchmarks.upresnet10 import MARGIN, load_upresnet10
from kronexport.export.replace import factorized
from kronexport.factorize.calibrate import Calibration
from kronexport.records import InputSpec
from kronexport.survey.sites import survey

NAMES = ("astronaut", "chelsea", "coffee")
TILES = 128
TILE = 64 + 2 * MARGIN
"""Pixels of a tile's side; waifu2x itself works tile by tile, of this size."""

Upscaler = Callable[[Image.Image], Tensor]
"""An image -> pixels [3, 2 H, 2 W], 0..1."""


@dataclass(frozen=True)
class Photo:
    """A photograph of even size and its half."""

    whole: Image.Image
    half: Image.Image

    @classmethod
    def read(cls, path: Path) -> "Photo":
        image = read_photo(path)
        width, height = image.width // 2, image.height // 2
        whole = image.crop((0, 0, 2 * width, 2 * height))
        return cls(whole, whole.resize((width, height), Image.Resampling.BICUBIC))

    def psnr(self, upscale: Upscaler) -> float:
        """Decibels, over all pixels of R, G and B."""
        error = upscale(self.half).clamp(0, 1) - _tensor([self.whole])[0]
        return float(-10 * torch.log10(error.square().mean()))


def by_network(model: nn.Module) -> Upscaler:
    """By the network, in one piece."""

    def upscale(image: Image.Image) -> Tensor:
        with torch.no_grad():
            pixels: Tensor = model(F.pad(_tensor([image]), [MARGIN] * 4, mode="replicate"))[0]
        return pixels

    return upscale


def bicubic(image: Image.Image) -> Tensor:
    """What needs no network."""
    return _tensor([image.resize((2 * image.width, 2 * image.height), Image.Resampling.BICUBIC)])[0]


def calibration_tiles(photos: Path) -> NDArray[np.float32]:
    """Tiles of all JPEG photographs in turn, at seeded places: [128, 3, 90, 90]."""
    halves = [Photo.read(path).half for path in sorted(photos.glob("*.jpg"))]
    draw = np.random.default_rng(0)
    tiles = []
    for index in range(TILES):
        image = halves[index % len(halves)]
        left, top = (int(draw.integers(side - TILE + 1)) for side in image.size)
        tiles.append(image.crop((left, top, left + TILE, top + TILE)))
    return _tensor(tiles).numpy()


def print_rows(model: nn.Module, photos: Sequence[Photo], tiles: NDArray[np.float32], rows: Rows) -> None:
    """Bicubic, dense, SVD, fitted."""
    found = survey(model, InputSpec("input", (1, 3, TILE, TILE)))
    plan = least_error_plan(found.sites, gkpd_candidates(model, found.sites), network_budget(found, 2.0))
    sizes = [f"{network_reduction(found, plan, name):.2f}x" for name in MEASURES]

    def scores(upscale: Upscaler) -> list[str]:
        found = [photo.psnr(upscale) for photo in photos]
        return [f"{one:.2f}" for one in (*found, sum(found) / len(found))]

    def fitted() -> list[str]:
        started = time.monotonic()
        network = factorized(model, plan.structures, Calibration(tiles, 1), _quiet)
        took = time.monotonic() - started
        return ["fitted", *sizes, *scores(by_network(network)), f"{took:.0f}"]

    rows.print("bicubic", lambda: ["no network, bicubic", "", "", *scores(bicubic), ""])
    rows.print("dense", lambda: ["dense", "1.00x", "1.00x", *scores(by_network(model)), ""])
    rows.print(
        "svd", lambda: ["SVD", *sizes, *scores(by_network(factorized(model, plan.structures, None, _quiet))), ""]
    )
    rows.print("fitted", fitted)


def _tensor(images: Sequence[Image.Image]) -> Tensor:
    """[N, 3, H, W], 0..1."""
    return torch.from_numpy(pixels_of(images).astype(np.float32) / 255)


def _quiet(_done: int, _total: int) -> None:
    pass


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="upresnet10.npz")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--out", type=Path, required=True, help="folder of finished rows")
    args = parser.parse_args()
    columns = ("factors", "fewer params", "fewer MACs", *(f"{name} dB" for name in NAMES), "mean dB", "fitting s")
    print(heading(f"{TILES} tiles of {TILE} x {TILE} from JPEG photographs", columns), flush=True)
    photos = [Photo.read(args.photos / f"{name}.png") for name in NAMES]
    print_rows(load_upresnet10(args.weights), photos, calibration_tiles(args.photos), Rows(args.out / "rows.json"))


if __name__ == "__main__":
    main()
