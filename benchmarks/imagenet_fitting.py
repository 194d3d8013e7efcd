"""ImageNet ResNet-50 with its sixteen 3x3 convs by GKPD: SVD against factors fitted without labels, no training.

    python -m benchmarks.imagenet_fitting --weights resnet50_imagenet.npz --cifar cifar-10-batches-bin
        --photos FOLDER --out FOLDER

Scored on CIFAR-10 test images scaled to 128 pixels: zero-shot accuracy (probabilities summed over the ImageNet classes
of each CIFAR-10 class, ``cifar10_in_imagenet.toml``) and how often the first of the 1,000 classes is dense's.
"""

import argparse
import resource
import time
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.keras_resnet50 import keras_resnet50, preprocess
from benchmarks.photos import image_of, pixels_of, read_photo, square
from benchmarks.planning import GKPD, MEASURES, least_error_plan, planner_candidates, sites_budget, sites_reduction
from benchmarks.table import Rows, heading
from kronexport.export.replace import factorized
from kronexport.factorize.calibrate import Calibration
from kronexport.records import InputSpec, Plan
from kronexport.survey.sites import survey
from sample_models import cifar10

CLASS_MAP = Path(__file__).parent / "cifar10_in_imagenet.toml"
CALIBRATION_IMAGES = 512
"""What a fit uses at most; all photographs are among them."""
SIZE = 128
COLUMNS = ("factors", "fewer params", "fewer MACs", "zero-shot %", "top-1 as dense %", "fitting s", "peak GB")


@dataclass(frozen=True)
class Test:
    """Preprocessed images [N, 3, 128, 128], their CIFAR-10 labels [N] and the network that they are compared to."""

    images: Tensor
    labels: NDArray[np.int64]
    dense: nn.Module

    def figures(self, model: nn.Module) -> list[str]:
        """Zero-shot accuracy and top-1 agreement with dense, in percent."""
        found = probabilities(model, self.images)
        accuracy = np.mean(zero_shot(found) == self.labels)
        return [f"{100 * accuracy:.1f}", f"{100 * np.mean(_highest(found) == self._dense_top1):.1f}"]

    @cached_property
    def _dense_top1(self) -> NDArray[np.int64]:
        return _highest(probabilities(self.dense, self.images))


def probabilities(model: nn.Module, images: Tensor) -> NDArray[np.float32]:
    """[N, 1000]."""
    with torch.no_grad():
        parts = [model(part).softmax(dim=1) for part in torch.split(images, 50)]
    return torch.cat(parts).numpy()


def zero_shot(found: NDArray[np.float32]) -> NDArray[np.int64]:
    """Probabilities [N, 1000] of ImageNet's classes -> CIFAR-10 classes [N]."""
    groups = tomllib.loads(CLASS_MAP.read_text("utf-8")).values()
    indices = [[int(entry.split()[0]) for entry in group] for group in groups]
    return _highest(np.stack([found[:, group].sum(axis=1) for group in indices], axis=1))


def _highest(found: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.asarray(found.argmax(axis=1))


def scaled(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """CIFAR-10 images [N, 3, 32, 32] as the network takes them, [N, 3, 128, 128]."""
    return preprocess(pixels_of([square(image_of(one), SIZE) for one in pixels]))


def calibration_images(cifar: Path, photos: Path, count: int) -> NDArray[np.float32]:
    """The JPEG and PNG photographs, filled up to ``count`` with training images drawn by a seed."""
    paths = [path for path in sorted(photos.iterdir()) if not path.name.startswith("cifar10_")]
    taken = preprocess(pixels_of([square(read_photo(path), SIZE) for path in paths]))[:count]
    drawn = np.random.default_rng(0).permutation(cifar10.read_split(cifar, "train").pixels)[: count - len(taken)]
    # spread over all batches, so that both halves of a fit see photographs
    return np.random.default_rng(0).permutation(np.concatenate([taken, scaled(drawn)]))


def rows(model: nn.Module, include: str, calibration: NDArray[np.float32], test: Test, path: Path) -> None:
    """Print them: dense, SVD, fitted."""
    found = survey(model, InputSpec("input", (1, 3, SIZE, SIZE)), include=(include,))
    plan = least_error_plan(found.sites, planner_candidates(model, found.sites, GKPD), sites_budget(found, 2.0))
    sizes = [f"{sites_reduction(found, plan, name):.2f}x" for name in MEASURES]
    table = Rows(path)

    def fitted() -> list[str]:
        network, figures = fit(model, plan, calibration)
        return ["fitted", *sizes, *test.figures(network), *figures]

    table.print("dense", lambda: ["dense", "1.00x", "1.00x", *test.figures(model), "", ""])
    table.print("svd", lambda: ["SVD", *sizes, *test.figures(factorized(model, plan.structures, None, _quiet)), "", ""])
    table.print("fitted", fitted)


def fit(model: nn.Module, plan: Plan, calibration: NDArray[np.float32]) -> tuple[nn.Module, list[str]]:
    """The fitted network, the seconds that took and the process's peak memory until now in GB."""
    started = time.monotonic()
    network = factorized(model, plan.structures, Calibration(calibration, 1), _quiet)
    took = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return network, [f"{took:.0f}", f"{peak:.1f}"]


def _quiet(_done: int, _total: int) -> None:
    pass


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="ResNet-50 of Keras with torchvision's keys, .npz")
    parser.add_argument("--cifar", type=Path, required=True, help="folder cifar-10-batches-bin")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--out", type=Path, required=True, help="folder of finished rows, from which a run resumes")
    parser.add_argument("--include", default="layer?.*.conv2", help="pattern of the convs; default: all 3x3 ones")
    parser.add_argument("--images", type=int, default=CALIBRATION_IMAGES, help="calibration images")
    parser.add_argument("--test", type=int, default=1000, help="test images")
    args = parser.parse_args()
    model = keras_resnet50(args.weights)
    tested = cifar10.read_split(args.cifar, "test")
    images = torch.from_numpy(scaled(tested.pixels[: args.test]))
    print(heading(f"convs {args.include}, {args.images} calibration, {args.test} test images", COLUMNS), flush=True)
    test = Test(images, tested.labels[: args.test], model)
    rows(model, args.include, calibration_images(args.cifar, args.photos, args.images), test, args.out / "rows.json")


if __name__ == "__main__":
    main()
