"""A small data set in the binary form of CIFAR-10, in which a brighter image has a higher label."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BATCHES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")


def write_batch(path: Path, labels: NDArray[np.uint8]) -> None:
    """One record a label: the label, then 3 x 32 x 32 bytes, each 20 * label plus 0..9."""
    noise = np.random.default_rng(int(labels.sum())).integers(0, 10, (len(labels), 3 * 32 * 32), np.uint8)
    pixels = 20 * labels[:, None] + noise
    np.concatenate([labels[:, None], pixels], axis=1).tofile(path)


def write_cifar10(folder: Path) -> None:
    """All six batches of 10,000 records."""
    for name in BATCHES:
        write_batch(folder / name, (np.arange(10_000) % 10).astype(np.uint8))
