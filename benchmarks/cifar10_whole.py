"""``--evaluate benchmarks.cifar10_whole:top1``: what an engine scores on all 10,000 test images of CIFAR-10.

The environment variable KRONEXPORT_CIFAR10 names the folder cifar-10-batches-bin.
"""

import os
from pathlib import Path

import numpy as np

from sample_models import cifar10
from sample_models.evaluation import Predictor

FOLDER = "KRONEXPORT_CIFAR10"


def top1(predict: Predictor) -> float:
    """Percent; images go to ``predict`` one by one.

    Raises:
        ValueError: the environment variable is not set.
    """
    if FOLDER not in os.environ:
        raise ValueError(f"{FOLDER} is not set; set it to the folder cifar-10-batches-bin")
    pixels, labels = cifar10.read_split(Path(os.environ[FOLDER]), "test")
    found = [predict(cifar10.normalize(pixels[at : at + 1])).argmax() for at in range(len(labels))]
    return 100 * float(np.mean(np.array(found) == labels))
