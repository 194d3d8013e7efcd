from pathlib import Path

import numpy as np
import pytest

from sample_models import cifar10, make_cifar10_sample
from tests.sample_models import synthetic


def _images(labels: np.ndarray) -> cifar10.Images:
    return cifar10.Images(np.zeros((len(labels), 3, 32, 32), np.uint8), labels)


def test_draw_is_balanced_without_repetition_and_mixed() -> None:
    labels = np.sort(np.arange(1000) % 10)
    index = make_cifar10_sample.draw(_images(labels), np.random.default_rng(1))
    assert len(set(index.tolist())) == 512
    assert set(np.bincount(labels[index])) == {51, 52}
    assert np.any(np.diff(labels[index]) < 0)


def test_draw_names_the_class_that_is_too_small() -> None:
    labels = np.arange(1000) % 9
    with pytest.raises(ValueError, match="class 9: 0 images"):
        make_cifar10_sample.draw(_images(labels), np.random.default_rng(1))


def test_same_data_give_the_same_bytes_and_nothing_unfinished(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    synthetic.write_cifar10(data)
    first, second = tmp_path / "out" / "first.npz", tmp_path / "out" / "second.npz"
    make_cifar10_sample.write_sample(data, first)
    make_cifar10_sample.write_sample(data, second)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in first.parent.iterdir()) == ["first.npz", "second.npz"]
    with np.load(first) as sample:
        assert {key: (value.shape, value.dtype.name) for key, value in sample.items()} == {
            "train_images": ((512, 3, 32, 32), "uint8"),
            "train_labels": ((512,), "uint8"),
            "test_images": ((512, 3, 32, 32), "uint8"),
            "test_labels": ((512,), "uint8"),
        }
        np.testing.assert_array_equal(sample["test_images"][:, 0, 0, 0] // 20, sample["test_labels"])
