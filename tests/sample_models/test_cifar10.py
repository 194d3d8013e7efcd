from pathlib import Path

import numpy as np
import pytest

from sample_models import cifar10
from tests.sample_models import synthetic


def test_normalize_centres_and_scales_each_channel() -> None:
    white = cifar10.normalize(np.full((1, 3, 2, 2), 255, np.uint8))
    expected = [(1 - mean) / std for mean, std in zip(cifar10.MEAN, cifar10.STD, strict=True)]
    np.testing.assert_allclose(white[0, :, 0, 0], expected, rtol=1e-6)
    assert white.dtype == np.float32


def test_read_split_gives_labels_and_planes_in_file_order(tmp_path: Path) -> None:
    labels = np.arange(10_000, dtype=np.uint16).astype(np.uint8) % 10
    synthetic.write_batch(tmp_path / "test_batch.bin", labels)
    images = cifar10.read_split(tmp_path, "test")
    np.testing.assert_array_equal(images.labels, labels)
    assert images.pixels.shape == (10_000, 3, 32, 32)
    np.testing.assert_array_equal(images.pixels[:, 2, 31, 31] // 20, labels)


def test_truncated_batch_is_refused_with_both_sizes(tmp_path: Path) -> None:
    synthetic.write_batch(tmp_path / "test_batch.bin", np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match=r"test_batch.bin: 9219 bytes, expected 30730000"):
        cifar10.read_split(tmp_path, "test")


@pytest.mark.parametrize("split", ["train", "test"])
def test_shipped_sample_is_balanced_and_without_repetition(split: str) -> None:
    images = cifar10.read_sample(split)
    assert images.pixels.shape == (512, 3, 32, 32)
    assert images.pixels.dtype == np.uint8
    assert set(np.bincount(images.labels, minlength=10)) == {51, 52}
    assert len(np.unique(images.pixels.reshape(512, -1), axis=0)) == 512


def test_shipped_splits_share_no_image() -> None:
    train, test = ({image.tobytes() for image in cifar10.read_sample(split).pixels} for split in ("train", "test"))
    assert not train & test


def test_shipped_images_are_photographs_of_the_known_mean_colour() -> None:
    """The mean of all of CIFAR-10 is (0.491, 0.482, 0.447)."""
    mean = cifar10.read_sample("train").pixels.mean(axis=(0, 2, 3)) / 255
    np.testing.assert_allclose(mean, (0.491, 0.482, 0.447), atol=0.03)
