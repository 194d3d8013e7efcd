"""Draw the images that ship with the project from CIFAR-10: 512 for calibration, 512 for a quick test.

    python -m sample_models.make_cifar10_sample --data cifar-10-batches-bin

The draw is seeded and as balanced as 512 is over 10 classes (51 or 52 each); the same data give the same bytes.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sample_models import cifar10

COUNT = 512
SEED = 0


def draw(data: cifar10.Images, generator: np.random.Generator) -> NDArray[np.int64]:
    """Indices [512] of a class-balanced draw without repetition, in random order.

    Raises ValueError if a class has too few images.
    """
    quota = np.full(cifar10.CLASSES, COUNT // cifar10.CLASSES)
    quota[generator.choice(cifar10.CLASSES, COUNT % cifar10.CLASSES, replace=False)] += 1
    chosen = []
    for label, wanted in enumerate(quota):
        members = np.flatnonzero(data.labels == label)
        if len(members) < wanted:
            raise ValueError(f"class {label}: {len(members)} images, expected at least {wanted}; fetch the data again")
        chosen.append(generator.choice(members, wanted, replace=False))
    return generator.permutation(np.concatenate(chosen))


def write_sample(folder: Path, destination: Path) -> None:
    """Draw from ``cifar-10-batches-bin`` and write ``destination`` (.npz).

    Its arrays: ``train_images`` and ``test_images`` uint8 [512, 3, 32, 32], ``train_labels`` and ``test_labels``
    uint8 [512].
    """
    generator = np.random.default_rng(SEED)
    arrays: dict[str, NDArray[np.uint8]] = {}
    for split in ("train", "test"):
        data = cifar10.read_split(folder, split)
        index = draw(data, generator)
        arrays[f"{split}_images"] = data.pixels[index]
        arrays[f"{split}_labels"] = data.labels[index].astype(np.uint8)
    destination.parent.mkdir(parents=True, exist_ok=True)
    unfinished = destination.with_suffix(".tmp")
    with unfinished.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)
    unfinished.replace(destination)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder cifar-10-batches-bin")
    parser.add_argument("--out", type=Path, default=cifar10.SAMPLE_FILE, help="file to write")
    args = parser.parse_args()
    write_sample(args.data, args.out)


if __name__ == "__main__":
    main()
