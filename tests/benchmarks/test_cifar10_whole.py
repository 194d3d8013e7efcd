"""The score of an engine on all test images of CIFAR-10."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import cifar10_whole
from sample_models import cifar10


def test_each_image_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A predictor that sees the label in the first pixel, and says 0 for the last class."""
    labels = np.arange(10_000) % 10
    records = np.zeros((10_000, 3073), np.uint8)
    records[:, 0] = records[:, 1] = labels
    records.tofile(tmp_path / "test_batch.bin")
    monkeypatch.setenv(cifar10_whole.FOLDER, str(tmp_path))
    shown = {float(value): label for label, value in enumerate(cifar10.normalize(_pixels())[:, 0, 0, 0])}

    def predict(image: NDArray[np.float32]) -> NDArray[np.float32]:
        assert image.shape == (1, 3, 32, 32)
        return np.eye(10, dtype=np.float32)[[shown[float(image[0, 0, 0, 0])] % 9]]

    assert cifar10_whole.top1(predict) == pytest.approx(90.0)


def _pixels() -> NDArray[np.uint8]:
    """One image a class, its number in the first pixel."""
    return np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1) * np.ones((1, 3, 1, 1), np.uint8)


def test_a_folder_that_is_not_named_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cifar10_whole.FOLDER, raising=False)
    with pytest.raises(ValueError, match="KRONEXPORT_CIFAR10 is not set"):
        cifar10_whole.top1(lambda image: image)
