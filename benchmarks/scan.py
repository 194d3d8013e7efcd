"""Scanning all structures of every ResNet-50 conv at every rank: how long it takes, and where the time goes.

    python -m benchmarks.scan --weights resnet50_imagenet.npz

Without ``--weights`` they are the sample's seeded ones. The cache is a folder of its own, empty at first.
"""

import argparse
import cProfile
import math
import os
import platform
import pstats
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits
from torch import nn

from kronexport.factorize.scan import ErrorScan
from kronexport.factorize.spectra import forest, rows, squared_errors
from kronexport.survey.weights import load_weights
from sample_models.factories import ARCHITECTURES

PARTS = {"_gram_matrix": "Gram products", "_partial_trace": "partial traces", "eigvalsh": "eigenvalues"}
"""What a table calls the functions that the scan spends its time in."""

SQUARE = 1536
"""Rows of the largest Gram matrix of a ResNet-50."""

Weights = Mapping[str, NDArray[np.float32]]


def conv_weights(model: nn.Module) -> Weights:
    """[F, C, kh, kw] by name."""
    convs = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    return {name: conv.weight.detach().numpy() for name, conv in convs.items()}


def gemm_rate() -> float:
    """Multiply-accumulates a second of a float32 matrix product on one core, the best of ten."""
    left, right = np.random.default_rng(0).standard_normal((2, SQUARE, SQUARE)).astype(np.float32)
    product = partial(np.matmul, left, right)
    return SQUARE**3 / min(seconds(product, time.thread_time) for _ in range(10))


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Of ``clock`` while ``work`` runs."""
    started = clock()
    work()
    return clock() - started


def time_by_part(weights: Weights) -> dict[str, float]:
    """CPU seconds of a scan of one weight after another, on one core."""
    profile = cProfile.Profile(time.thread_time)
    profile.enable()
    for weight in weights.values():
        squared_errors(weight)
    profile.disable()
    found = {function: figures for (_file, _line, function), figures in pstats.Stats(profile).stats.items()}  # type: ignore[attr-defined]
    parts = {part: found[function][3] for function, part in PARTS.items()}
    return {**parts, "all else": found["squared_errors"][3] - sum(parts.values())}


def work_by_part(weights: Weights) -> dict[str, float]:
    """Multiply-accumulates: half of rows^2 columns for a symmetric product, 2/3 rows^3 for eigenvalues alone."""
    products = eigenvalues = 0.0
    for weight in weights.values():
        trees = forest(weight.shape)
        products += sum(rows(root) * weight.size / 2 for root in trees.roots)
        eigenvalues += sum(2 / 3 * rows(side) ** 3 for side in set(trees.sides.values()))
    return {"Gram products": products, "eigenvalues": eigenvalues}


def scan_seconds(weights: Weights) -> float:
    """Of the clock on the wall, for a scan as a build does it."""
    return seconds(partial(ErrorScan(weights).prefetch, lambda _stage, _done, _total: None), time.monotonic)


def print_times(weights: Weights) -> None:
    """The table of a first and a second scan, in an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KRONEXPORT_CACHE"] = folder
        started = time.process_time()
        cold = scan_seconds(weights)
        busy = time.process_time() - started
        warm = scan_seconds(weights)
        kept = sum(path.stat().st_size for path in Path(folder).rglob("*.npz"))
    structures = sum(len(forest(weight.shape).sides) for weight in weights.values())
    print("| convs | structures | first scan s | its CPU s | scan from cache s | cache MB |\n|---|---|---|---|---|---|")
    print(
        f"| {len(weights)} | {structures:,} | {cold:.1f} | {busy:.1f} | {warm:.2f} | {kept / 1e6:.1f} |\n", flush=True
    )


def print_parts(weights: Weights) -> None:
    """The table of where the time goes, beside the time that a matrix product takes for as many operations."""
    with threadpool_limits(1, user_api="blas"):
        rate, times = gemm_rate(), time_by_part(weights)
    work, total = work_by_part(weights), sum(times.values())
    print(f"A matrix product: {rate / 1e9:.1f} GMAC/s on one core, float32.\n")
    print("| part | CPU s | share | GMAC | s at that rate | ratio |\n|---|---|---|---|---|---|")
    for part, spent in times.items():
        count = work.get(part)
        bound = (
            "| | | |" if count is None else f"| {count / 1e9:.0f} | {count / rate:.1f} | {spent * rate / count:.1f} |"
        )
        print(f"| {part} | {spent:.1f} | {spent / total:.0%} {bound}")
    least = math.fsum(work.values())
    print(f"| all | {total:.1f} | | {least / 1e9:.0f} | {least / rate:.1f} | {total * rate / least:.1f} |")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="state dict of an ImageNet ResNet-50")
    args = parser.parse_args()
    model = ARCHITECTURES["resnet50"]()
    if args.weights is not None:
        load_weights(model, args.weights)
    weights = conv_weights(model)
    threads = max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
    print(
        f"{datetime.now(UTC):%Y-%m-%d}; Python {platform.python_version()}, numpy {version('numpy')}, "
        f"{threads} thread(s)\n",
        flush=True,
    )
    print_times(weights)
    print_parts(weights)


if __name__ == "__main__":
    main()
