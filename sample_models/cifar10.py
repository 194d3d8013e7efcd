"""CIFAR-10 in its official binary form, its normalization, and the sample of images shipped here.

A binary batch holds 10,000 records of 3,073 bytes: the label, then 3 x 32 x 32 bytes in RGB planes
(Krizhevsky, "Learning multiple layers of features from tiny images", 2009).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CLASSES = 10
SAMPLE_FILE = Path(__file__).parent / "data" / "cifar10_sample.npz"
_RECORD_BYTES = 1 + 3 * 32 * 32


class Images(NamedTuple):
    """``pixels``: uint8 [N, 3, 32, 32] RGB; ``labels``: int64 [N], 0..9."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


def read_split(folder: Path, split: str) -> Images:
    """All images of ``"train"`` (50,000) or ``"test"`` (10,000) from ``cifar-10-batches-bin``.

    Raises FileNotFoundError when a batch is missing and ValueError when one has the wrong size.
    """
    names = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}[split]
    parts = []
    for name in names:
        raw = np.fromfile(folder / name, np.uint8)
        if raw.size != 10_000 * _RECORD_BYTES:
            raise ValueError(f"{folder / name}: {raw.size} bytes, expected {10_000 * _RECORD_BYTES}; fetch it again")
        parts.append(raw.reshape(-1, _RECORD_BYTES))
    records = np.concatenate(parts)
    return Images(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64))


def read_sample(split: str) -> Images:
    """The 512 images of ``"train"`` or ``"test"`` that ship with the project."""
    with np.load(SAMPLE_FILE, allow_pickle=False) as sample:
        return Images(sample[f"{split}_images"], sample[f"{split}_labels"].astype(np.int64))


def normalize(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 [N, 3, H, W] -> float32 (x / 255 - mean) / std, per RGB channel."""
    mean = np.array(MEAN, np.float32).reshape(1, 3, 1, 1)
    std = np.array(STD, np.float32).reshape(1, 3, 1, 1)
    return (pixels.astype(np.float32) / np.float32(255) - mean) / std
