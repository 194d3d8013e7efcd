"""ResNet-32 on CIFAR-10 by each method: SVD or its like against factors fitted to 512 unlabelled training images.

    python -m benchmarks.cifar_fitting --weights resnet32.th --data cifar-10-batches-bin --out FOLDER

No training. A plan has the least weight error at which the whole network has so many times fewer params and MACs;
accuracy is on all 10,000 test images. Finished rows are read from FOLDER, so the command resumes.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.ladders import CANDIDATES
from benchmarks.planning import MEASURES, least_error_plan, network_budget, network_reduction
from benchmarks.table import Rows, heading
from kronexport.errors import GoalError
from kronexport.export.replace import factorized
from kronexport.factorize.calibrate import Calibration
from kronexport.plan.candidates import Candidate
from kronexport.records import InputSpec, Survey
from kronexport.survey.sites import survey
from kronexport.survey.weights import load_weights
from sample_models import cifar10
from sample_models.cifar_resnet import CifarResNet

FACTORS = (1.6, 2.2, 3.0)
CALIBRATION_IMAGES = 512
COLUMNS = ("method", "asked", "fewer params", "fewer MACs", "SVD or its like %", "fitted %", "fitting s")


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


@dataclass(frozen=True)
class Setting:
    """What all rows have in common."""

    model: nn.Module
    found: Survey
    calibration: NDArray[np.float32]
    test: Test

    def row(self, method: str, factor: float, candidates: Sequence[Sequence[Candidate]]) -> list[str]:
        """One row of the table."""
        asked = [method, f">= {factor}x"]
        try:
            plan = least_error_plan(self.found.sites, candidates, network_budget(self.found, factor))
        except GoalError:
            return [*asked, *["not reached"] * 2, *[""] * 3]
        svd = self.test.accuracy(factorized(self.model, plan.structures, None, _quiet))
        started = time.monotonic()
        fitted = factorized(self.model, plan.structures, Calibration(self.calibration, 1), _quiet)
        took = time.monotonic() - started
        sizes = [f"{network_reduction(self.found, plan, name):.2f}x" for name in MEASURES]
        return [*asked, *sizes, f"{svd:.2f}", f"{self.test.accuracy(fitted):.2f}", f"{took:.0f}"]


def calibration_images(data: Path) -> NDArray[np.float32]:
    """Drawn from all training batches, seeded; their labels are not looked at."""
    pixels = cifar10.read_split(data, "train").pixels
    return cifar10.normalize(np.random.default_rng(0).permutation(pixels)[:CALIBRATION_IMAGES])


def print_rows(setting: Setting, method: str, factors: Sequence[float], rows: Rows) -> None:
    """The rows of one method; its candidates are found once, if a row is missing."""
    missing = [factor for factor in factors if f"{method} {factor}" not in rows]
    candidates = CANDIDATES[method](setting.model, setting.found.sites) if missing else []
    for factor in factors:
        rows.print(f"{method} {factor}", partial(setting.row, method, factor, candidates))


def _quiet(_done: int, _total: int) -> None:
    pass


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="state dict of a CIFAR ResNet-32")
    parser.add_argument("--data", type=Path, required=True, help="folder cifar-10-batches-bin")
    parser.add_argument("--out", type=Path, required=True, help="folder of finished rows")
    parser.add_argument("--methods", nargs="+", default=list(CANDIDATES), choices=list(CANDIDATES))
    parser.add_argument("--factors", type=float, nargs="+", default=FACTORS, help="asked of both params and MACs")
    args = parser.parse_args()
    model = CifarResNet(32).eval()
    load_weights(model, args.weights)
    images = cifar10.read_split(args.data, "test")
    test = Test(torch.from_numpy(cifar10.normalize(images.pixels)), torch.from_numpy(images.labels))
    found = survey(model, InputSpec("input", (1, 3, 32, 32)))
    setting = Setting(model, found, calibration_images(args.data), test)
    print(heading(f"dense {test.accuracy(model):.2f} %", COLUMNS), flush=True)
    rows = Rows(args.out / "rows.json")
    for method in args.methods:
        print_rows(setting, method, args.factors, rows)


if __name__ == "__main__":
    main()
