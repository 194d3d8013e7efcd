"""UpResNet10 (x2 super-resolution) at half of its MACs: the engine's PSNR, fitted, and after training without labels.

    python -m benchmarks.upscaling_recover --weights upresnet10.npz --photos FOLDER --out FOLDER --target cpu

Two whole builds of one plan's goal, without ``--recover`` and with it. Fitted to tiles of the photographs (JPEG, scaled
to half), and trained on others of them, by what the dense network makes of them alone; the last epoch counts. Scored
by the engine, tile by tile as waifu2x runs it, on three lossless photographs (PNG) that are in neither and choose
nothing. Finished rows are read from --out.
"""

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F  # PyTorch's own name for it
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from benchmarks.table import Rows
from benchmarks.timed import build_config, measured_heading, speedup_text, timing_parser
from benchmarks.upresnet10 import MARGIN, load_upresnet10
from benchmarks.upscaling_fitting import NAMES, TILE, TILES, Photo, calibration_tiles, rgb
from kronexport.backends.profile import load_target
from kronexport.files import write_bytes_aside
from kronexport.pipeline import run
from kronexport.records import TargetReport
from kronexport.recover.recipe import Optimizer

PHOTOS = "KRONEXPORT_PHOTOS"
"""Environment variable with the folder of photographs, for ``psnr``."""
INNER = TILE - 2 * MARGIN
COLUMNS = ("network", "params", "MACs", "dense dB", "dB", "lost dB", "error before", "error", "speed-up (95 %)")

Predictor = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Tiles [1, 3, 90, 90] -> [1, 3, 128, 128]."""


def by_tiles(predict: Predictor, image: Image.Image) -> Tensor:
    """Pixels [3, 2 H, 2 W] of an image, each tile of 64 x 64 by itself with the margin that it has in the image."""
    height, width = image.height, image.width
    below, right = -height % INNER, -width % INNER
    padded = F.pad(rgb([image]), [MARGIN, MARGIN + right, MARGIN, MARGIN + below], mode="replicate").numpy()
    made = np.empty((3, 2 * (height + below), 2 * (width + right)), np.float32)
    for top in range(0, height, INNER):
        for left in range(0, width, INNER):
            tile = predict(np.ascontiguousarray(padded[:, :, top : top + TILE, left : left + TILE]))
            made[:, 2 * top : 2 * (top + INNER), 2 * left : 2 * (left + INNER)] = tile[0]
    return torch.from_numpy(made[:, : 2 * height, : 2 * width])


def psnr(predict: Predictor) -> float:
    """``--evaluate``: the mean over the photographs in decibels."""
    photos = [Photo.read(Path(os.environ[PHOTOS], f"{name}.png")) for name in NAMES]
    return sum(photo.psnr(partial(by_tiles, predict)) for photo in photos) / len(photos)


def row(name: str, target: TargetReport) -> list[str]:
    """One line of the table; errors are those of the outputs, relative to dense."""
    before, after = target.dense.accuracy, target.compressed.accuracy
    assert before is not None  # noqa: S101  there is an evaluator, and both targets run here
    assert after is not None  # noqa: S101
    assert target.speedup is not None  # noqa: S101
    ratios = [getattr(target.compressed, key) / getattr(target.dense, key) for key in ("params", "macs")]
    fitted = next(check.rel_l2 for check in target.verification if check.stage == "factorized")
    training = target.recover
    errors = [fitted if training is None else training.error_before, fitted]
    return [
        name,
        *(f"{ratio:.3f}x" for ratio in ratios),
        *(f"{value:.2f}" for value in (before, after, before - after)),
        *("" if error is None else f"{error:.4f}" for error in errors),
        speedup_text(target.speedup),
    ]


def built(name: str, args: argparse.Namespace, **recover: Any) -> list[str]:
    """The row of a build."""
    config = build_config(
        "benchmarks.upresnet10:UpResNet10",
        args,
        weights=args.out / "upresnet10.safetensors",
        input=f"1x3x{TILE}x{TILE}",
        calibration=str(args.out / "fitted_to.npy"),
        evaluate="benchmarks.upscaling_recover:psnr",
        goal=(args.goal,),
        out=args.out / f"{args.target}-{name}",
        **recover,
    )
    with patch.dict(os.environ, {PHOTOS: str(args.photos)}):
        (target,) = run(config).report.targets.values()
    return row(name, target)


def write_inputs(args: argparse.Namespace) -> None:
    """Weights under the names of the network, tiles to fit to, others to train on."""
    args.out.mkdir(parents=True, exist_ok=True)
    write_bytes_aside(args.out / "upresnet10.safetensors", save(load_upresnet10(args.weights).state_dict()))
    tiles = calibration_tiles(args.photos, TILES + args.tiles)
    np.save(args.out / "fitted_to.npy", tiles[:TILES])
    np.save(args.out / "trained_on.npy", tiles[TILES:])


def main() -> None:
    """Print the table."""
    parser = timing_parser(__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="upresnet10.npz")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--out", type=Path, required=True, help="folder of builds and finished rows")
    parser.add_argument("--goal", default="macs<=0.5")
    parser.add_argument("--tiles", type=int, default=256, help="to train on")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--optimizer", default="adamw", choices=get_args(Optimizer))
    parser.add_argument("--learning-rate", type=float, default=0.0002, help="at its peak")
    parser.add_argument("--features", type=float, default=0.0, help="weight of the layers' own outputs")
    args = parser.parse_args()
    profile = load_target(args.target)
    recipe = {name: getattr(args, name) for name in ("batch", "optimizer", "learning_rate", "features")}
    told = ", ".join(f"{name} {value}" for name, value in recipe.items())
    title = f"{args.goal}, {args.epochs} epochs on {args.tiles} tiles of {TILE} x {TILE}, {told}"
    print(measured_heading(title, COLUMNS, profile, args.threads), flush=True)
    write_inputs(args)
    rows = Rows(args.out / f"rows-{args.target}.json")
    rows.print("fitted", partial(built, "fitted", args))
    trained = {"recover": str(args.out / "trained_on.npy"), "epochs": args.epochs, "recipe": recipe}
    rows.print(f"recovered: {title}", partial(built, "recovered", args, **trained))


if __name__ == "__main__":
    main()
