"""ResNet-32 on CIFAR-10: GKPD by SVD against factors fitted to 512 unlabelled training images, without training.

    python -m benchmarks.cifar_fitting --weights resnet32.th --data cifar-10-batches-bin

Structures are the planner's for params and MACs of the whole network; accuracy is on all 10,000 test images.
"""

import argparse
import platform
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kronexport.backends.profile import load_target
from kronexport.export.replace import factorized, site_weights
from kronexport.factorize.calibrate import Calibration
from kronexport.factorize.scan import ErrorScan
from kronexport.plan.choose import make_plan
from kronexport.plan.goals import parse_goal
from kronexport.records import InputSpec, Plan, Survey
from kronexport.survey.sites import survey
from kronexport.survey.weights import load_weights
from sample_models import cifar10
from sample_models.cifar_resnet import CifarResNet

FACTORS = (1.6, 2.2, 3.0)
CALIBRATION_IMAGES = 512
TARGET = "cpu"
HEADER = "| asked | fewer params | fewer MACs | SVD % | fitted % | fitting s |\n|---|---|---|---|---|---|"


@dataclass(frozen=True)
class Test:
    """Normalized images [N, 3, 32, 32] and their labels [N]."""

    images: torch.Tensor
    labels: torch.Tensor

    def accuracy(self, model: nn.Module) -> float:
        """Percent."""
        with torch.no_grad():
            found = torch.cat([model(part).argmax(dim=1) for part in torch.split(self.images, 250)])
        return 100 * found.eq(self.labels).sum().item() / len(self.labels)


def calibration_images(data: Path) -> NDArray[np.float32]:
    """Drawn from all training batches, seeded; their labels are not looked at."""
    pixels = cifar10.read_split(data, "train").pixels
    return cifar10.normalize(np.random.default_rng(0).permutation(pixels)[:CALIBRATION_IMAGES])


def reduction(found: Survey, plan: Plan, name: str) -> float:
    """Dense / compressed of ``params`` or ``macs`` of the whole network."""
    dense = int(getattr(found, name))
    saved: int = sum(getattr(site, name) for site in found.sites) - sum(getattr(choice, name) for choice in plan.sites)
    return dense / (dense - saved)


def row(model: nn.Module, factor: float, images: NDArray[np.float32], test: Test) -> str:
    """One line of the table."""
    found = survey(model, InputSpec("input", (1, 3, 32, 32)))
    scan = ErrorScan(site_weights(model, tuple(site.name for site in found.sites)))
    goals = [parse_goal(f"{name}<={1 / factor:.6f}") for name in ("params", "macs")]
    plan = make_plan(found, scan, goals, load_target(TARGET), lambda _stage, _done, _total: None)
    svd = test.accuracy(factorized(model, plan.structures, None, lambda _done, _total: None))
    started = time.monotonic()
    fitted = factorized(model, plan.structures, Calibration(images, 1), lambda _done, _total: None)
    took = time.monotonic() - started
    sizes = [f"{reduction(found, plan, name):.2f}x" for name in ("params", "macs")]
    cells = [f">= {factor}x", *sizes, f"{svd:.2f}", f"{test.accuracy(fitted):.2f}", f"{took:.0f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="state dict of a CIFAR ResNet-32")
    parser.add_argument("--data", type=Path, required=True, help="folder cifar-10-batches-bin")
    parser.add_argument("--factors", type=float, nargs="+", default=FACTORS, help="asked of both params and MACs")
    args = parser.parse_args()
    model = CifarResNet(32).eval()
    load_weights(model, args.weights)
    images = cifar10.read_split(args.data, "test")
    test = Test(torch.from_numpy(cifar10.normalize(images.pixels)), torch.from_numpy(images.labels))
    calibration = calibration_images(args.data)
    print(
        f"{datetime.now(UTC):%Y-%m-%d}; Python {platform.python_version()}, torch {version('torch')}, "
        f"{torch.get_num_threads()} thread(s); dense {test.accuracy(model):.2f} %\n\n{HEADER}",
        flush=True,
    )
    for factor in args.factors:
        print(row(model, factor, calibration, test), flush=True)


if __name__ == "__main__":
    main()
