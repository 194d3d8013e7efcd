"""ResNet-32 on CIFAR-10 by one method at a fifth of its parameters: fitted factors, then distillation, epoch by epoch.

    python -m benchmarks.resnet32_recover --method gkpd --weights resnet32.th --data cifar-10-batches-bin --out FOLDER

The plan has the least weight error at which the whole network has that many times fewer params, and no more MACs; the
factors are fitted to 512 unlabelled training images; then the network is taught by the dense one. Accuracy is that of
the averaged weights on all 10,000 test images; nothing is chosen by it: what is kept is the last epoch. A checkpoint is
written after each epoch, so that the same command goes on where it was stopped. At the end FOLDER has the network in
``factors.safetensors``. AdamW for all, since a step of SGD depends on the size of a method's factors (docs/recover.md).
"""

import argparse
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.cifar_fitting import calibration_images
from benchmarks.ladders import CANDIDATES
from benchmarks.planning import MEASURES, least_error_plan, network_budget
from benchmarks.table import heading, line
from kronexport.export.factors_file import load_compressed, save_compressed
from kronexport.export.replace import factorized
from kronexport.factorize.calibrate import Calibration
from kronexport.files import write_json_aside
from kronexport.records import InputSpec
from kronexport.recover.batches import ImageBatches
from kronexport.recover.checkpoint import EpochFigures
from kronexport.recover.distil import Predictor, distil, predictor
from kronexport.recover.recipe import Norms, Optimizer, Recipe
from kronexport.survey.sites import survey
from kronexport.survey.weights import load_weights
from sample_models import cifar10
from sample_models.cifar_resnet import CifarResNet

INPUT = InputSpec("input", (1, 3, 32, 32))
COLUMNS = ("epoch", "loss", "test accuracy %", "seconds", "left")
TEST_BATCH = 500


@dataclass(frozen=True)
class Scorer:
    """Images as the network takes them [N, 3, 32, 32] and labels [N]."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def accuracy(self, predict: Predictor) -> float:
        """Percent."""
        starts = range(0, len(self.labels), TEST_BATCH)
        found = [predict(self.images[at : at + TEST_BATCH]).argmax(axis=1) for at in starts]
        return 100 * float(np.mean(np.concatenate(found) == self.labels))


def scorer_of(data: Path) -> Scorer:
    """Of all 10,000 test images."""
    pixels, labels = cifar10.read_split(data, "test")
    return Scorer(cifar10.normalize(pixels), labels)


def normalized(device: torch.device) -> Callable[[Tensor], Tensor]:
    """What makes uint8 [N, 3, H, W] the network's input, channels last in memory: the fast layout of convs."""
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (cifar10.MEAN, cifar10.STD))
    scale, shift = 1 / (255 * std), mean / std

    def prepare(pixels: Tensor) -> Tensor:
        return pixels.to(torch.float32, memory_format=torch.channels_last).mul_(scale).sub_(shift)

    return prepare


def fitted(model: nn.Module, method: str, ratio: float, images: NDArray[np.float32]) -> nn.Module:
    """The network of the least error at ``ratio`` times fewer params and no more MACs, fitted to ``images``."""
    found = survey(model, INPUT)
    params, macs = (network_budget(found, factor)[name] for name, factor in zip(MEASURES, (ratio, 1.0), strict=True))
    candidates = CANDIDATES[method](model, found.sites)
    plan = least_error_plan(found.sites, candidates, {"params": params, "macs": macs})
    return factorized(model, plan.structures, Calibration(images, 1), lambda _done, _total: None)


def starting_point(model: nn.Module, args: argparse.Namespace) -> nn.Module:
    """``--start``, or the fitted network, from FOLDER where an earlier run fitted it by the same method and ratio."""
    if args.start is not None:
        return load_compressed(model, args.start).eval()
    file = args.out / f"start-{args.method}-{args.params_ratio:g}.safetensors"
    if not file.exists():
        save_compressed(fitted(model, args.method, args.params_ratio, calibration_images(args.data)), file)
    return load_compressed(model, file).eval()


def recipe_of(args: argparse.Namespace) -> Recipe:
    """One recipe for all methods, on a one-cycle schedule; nothing is chosen by the test images."""
    return Recipe(
        epochs=args.epochs,
        block_epochs=args.block_epochs,
        batch=args.batch,
        optimizer=args.optimizer,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        temperature=args.temperature,
        cross_entropy=args.cross_entropy,
        features=args.features,
        mixed=args.mixed,
        ema=args.ema,
        norms=args.norms,
        keep="last",
        seed=args.seed,
    )


def run(args: argparse.Namespace) -> None:
    """Print the table as it grows, and write the network."""
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    dense = CifarResNet(32).eval()
    load_weights(dense, args.weights)
    start = starting_point(dense, args)
    pixels, labels = (torch.from_numpy(part[: args.images]) for part in cifar10.read_split(args.data, "train"))
    recipe, test = recipe_of(args), scorer_of(args.data)
    batches = ImageBatches(pixels.to(device), labels, recipe, normalized(device))
    print(heading(title(dense, start, args), COLUMNS), flush=True)
    for name, network in (("dense", dense), ("fitted" if args.start is None else "start", start)):
        score = test.accuracy(predictor(deepcopy(network).to(device), device))
        print(line([name, "", f"{score:.2f}", "", ""]), flush=True)
    curve: list[dict[str, Any]] = []

    def told(figures: EpochFigures) -> None:
        curve.append(asdict(figures))
        write_json_aside(args.out / "curve.json", curve)
        print(line(cells(figures)), flush=True)

    done = distil(
        start,
        dense,
        batches,
        recipe,
        evaluate=test.accuracy,
        checkpoint=args.out / "checkpoint.pt",
        device=args.device,
        told=told,
    )
    save_compressed(done.model, args.out / "factors.safetensors")


def title(dense: nn.Module, start: nn.Module, args: argparse.Namespace) -> str:
    """What is trained, and how large it is."""
    before, after = (sum(one.numel() for one in model.parameters()) for model in (dense, start))
    sizes = f"{after:,} params of {before:,}, {before / after:.2f}x fewer"
    return f"{args.start or args.method}, {sizes}; {args.epochs} epochs, seed {args.seed}"


def cells(figures: EpochFigures) -> list[str]:
    """One row of the table."""
    score = "" if figures.score is None else f"{figures.score:.2f}"
    left = f"{figures.remaining / 60:.0f} min"
    return [str(figures.epoch), f"{figures.loss:.4f}", score, f"{figures.seconds:.0f}", left]


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="state dict of a CIFAR ResNet-32")
    parser.add_argument("--data", type=Path, required=True, help="folder cifar-10-batches-bin")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run alone; it goes on from there")
    parser.add_argument("--method", default="gkpd", choices=list(CANDIDATES))
    parser.add_argument("--params-ratio", type=float, default=5.05, help="so many times fewer params in all")
    parser.add_argument("--start", type=Path, help="factors to go on from instead of fitting those of a method")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--block-epochs", type=int, default=0, help="the first, which train each layer alone")
    parser.add_argument("--batch", type=int, default=128, help="images a step")
    parser.add_argument("--optimizer", default="adamw", choices=get_args(Optimizer))
    parser.add_argument("--learning-rate", type=float, default=0.001, help="at its peak")
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--temperature", type=float, default=4.0)
    parser.add_argument("--cross-entropy", type=float, default=0.1, help="weight of the labels")
    parser.add_argument("--features", type=float, default=0.0, help="weight of the layers' own outputs")
    parser.add_argument("--mixed", type=float, default=0.0, help="part of the images mixed with another; no labels")
    parser.add_argument("--ema", type=float, default=0.999, help="decay of the moving average of the weights")
    parser.add_argument("--norms", default="auto", choices=get_args(Norms), help="whether BatchNorms go by the batch")
    parser.add_argument("--device", default="cpu", help="to train on, as torch names it; all images lie there")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=50_000, help="train on so many of the images alone")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(parsed())
