"""Scores of a shipped engine on the images that ship with the project."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sample_models import cifar10

Predictor = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Normalized images [N, 3, 32, 32] -> logits [N, 10]."""


def cifar10_top1(predict: Predictor, batch: int = 1) -> float:
    """Top-1 accuracy in percent on the 512 shipped test images, given to ``predict`` ``batch`` at a time.

    Raises ValueError if ``batch`` does not divide 512 (an engine with a static shape takes no remainder) or if
    ``predict`` does not return one row of 10 logits an image.
    """
    pixels, labels = cifar10.read_sample("test")
    if batch < 1 or len(labels) % batch:
        raise ValueError(f"cifar10_top1: batch {batch} does not divide {len(labels)} images; use a power of two")
    images = cifar10.normalize(pixels)
    hits = 0
    for start in range(0, len(labels), batch):
        logits = predict(images[start : start + batch])
        if logits.shape != (batch, cifar10.CLASSES):
            raise ValueError(
                f"cifar10_top1: predictor returned shape {logits.shape}, expected {(batch, cifar10.CLASSES)}; "
                "evaluate a CIFAR-10 classifier with it"
            )
        hits += int(np.count_nonzero(logits.argmax(axis=1) == labels[start : start + batch]))
    return 100 * hits / len(labels)
