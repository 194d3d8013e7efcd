"""UpResNet10 (x2 super-resolution) by each method: SVD or its like against factors fitted without labels.

    python -m benchmarks.upscaling_fitting --weights upresnet10.npz --photos FOLDER --out FOLDER

No training. Scored by the PSNR of RGB on the lossless photographs (PNG), scaled to half their size (bicubic) and back
by the network. Calibrated on tiles of other photographs (JPEG), scaled to half. Finished rows are read from --out.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # PyTorch's own name for it
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from benchmarks.ladders import CANDIDATES
from benchmarks.photos import pixels_of, read_photo
from benchmarks.planning import MEASURES, least_error_plan, network_budget, network_reduction
from benchmarks.table import Rows, heading
from benchmarks.upresnet10 import MARGIN, load_upresnet10
from kronexport.export.replace import factorized
from kronexport.factorize.calibrate import Calibration
from kronexport.plan.candidates import Candidate
from kronexport.records import InputSpec, Survey
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
        error = upscale(self.half).clamp(0, 1) - rgb([self.whole])[0]
        return float(-10 * torch.log10(error.square().mean()))


def by_network(model: nn.Module) -> Upscaler:
    """By the network, in one piece."""

    def upscale(image: Image.Image) -> Tensor:
        with torch.no_grad():
            pixels: Tensor = model(F.pad(rgb([image]), [MARGIN] * 4, mode="replicate"))[0]
        return pixels

    return upscale


def bicubic(image: Image.Image) -> Tensor:
    """What needs no network."""
    return rgb([image.resize((2 * image.width, 2 * image.height), Image.Resampling.BICUBIC)])[0]


def calibration_tiles(photos: Path, count: int = TILES) -> NDArray[np.float32]:
    """Tiles of all JPEG photographs in turn, at seeded places: [count, 3, 90, 90]; fewer are the first of them."""
    halves = [Photo.read(path).half for path in sorted(photos.glob("*.jpg"))]
    draw = np.random.default_rng(0)
    tiles = []
    for index in range(count):
        image = halves[index % len(halves)]
        left, top = (int(draw.integers(side - TILE + 1)) for side in image.size)
        tiles.append(image.crop((left, top, left + TILE, top + TILE)))
    return rgb(tiles).numpy()


@dataclass(frozen=True)
class Setting:
    """What all rows have in common: the photographs are scored on, the tiles fitted to."""

    model: nn.Module
    found: Survey
    photos: Sequence[Photo]
    tiles: NDArray[np.float32]

    def scores(self, upscale: Upscaler) -> list[str]:
        """PSNR by photograph, and the mean."""
        found = [photo.psnr(upscale) for photo in self.photos]
        return [f"{one:.2f}" for one in (*found, sum(found) / len(found))]

    def row(self, name: str, calibration: Calibration | None, candidates: Sequence[Sequence[Candidate]]) -> list[str]:
        """One row: half the params and MACs, factors fitted or (no calibration) of the weights alone."""
        plan = least_error_plan(self.found.sites, candidates, network_budget(self.found, 2.0))
        sizes = [f"{network_reduction(self.found, plan, name):.2f}x" for name in MEASURES]
        started = time.monotonic()
        network = factorized(self.model, plan.structures, calibration, _quiet)
        took = f"{time.monotonic() - started:.0f}" if calibration else ""
        return [name, *sizes, *self.scores(by_network(network)), took]


def print_rows(setting: Setting, methods: Sequence[str], rows: Rows) -> None:
    """Bicubic, dense, then each method by its weight alone and fitted."""
    rows.print("bicubic", lambda: ["no network, bicubic", "", "", *setting.scores(bicubic), ""])
    rows.print("dense", lambda: ["dense", "1.00x", "1.00x", *setting.scores(by_network(setting.model)), ""])
    for method in methods:
        ways = {f"{method}, weights alone": None, f"{method}, fitted": Calibration(setting.tiles, 1)}
        missing = any(name not in rows for name in ways)
        candidates = CANDIDATES[method](setting.model, setting.found.sites) if missing else []
        for name, calibration in ways.items():
            rows.print(name, partial(setting.row, name, calibration, candidates))


def rgb(images: Sequence[Image.Image]) -> Tensor:
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
    parser.add_argument("--methods", nargs="+", default=["gkpd", "cp"], choices=list(CANDIDATES))
    args = parser.parse_args()
    columns = ("factors", "fewer params", "fewer MACs", *(f"{name} dB" for name in NAMES), "mean dB", "fitting s")
    print(heading(f"{TILES} tiles of {TILE} x {TILE} from JPEG photographs", columns), flush=True)
    photos = [Photo.read(args.photos / f"{name}.png") for name in NAMES]
    model = load_upresnet10(args.weights)
    found = survey(model, InputSpec("input", (1, 3, TILE, TILE)))
    setting = Setting(model, found, photos, calibration_tiles(args.photos))
    print_rows(setting, args.methods, Rows(args.out / "rows.json"))


if __name__ == "__main__":
    main()
