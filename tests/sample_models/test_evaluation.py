import numpy as np
import pytest
from numpy.typing import NDArray

from sample_models import cifar10
from sample_models.evaluation import cifar10_top1


class Oracle:
    """Knows the label of every shipped test image; remembers the batch sizes it was given."""

    def __init__(self) -> None:
        pixels, labels = cifar10.read_sample("test")
        self.label_of = {image.tobytes(): label for image, label in zip(cifar10.normalize(pixels), labels, strict=True)}
        self.batches: list[int] = []

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        self.batches.append(len(images))
        return np.stack([np.eye(10, dtype=np.float32)[self.label_of[image.tobytes()]] for image in images])


@pytest.mark.parametrize("batch", [1, 64])
def test_oracle_gets_100_percent_in_batches_of_the_static_size(batch: int) -> None:
    oracle = Oracle()
    assert cifar10_top1(oracle, batch) == 100
    assert oracle.batches == [batch] * (512 // batch)


def test_constant_answer_gets_its_class_s_share() -> None:
    share = 100 * np.mean(cifar10.read_sample("test").labels == 3)
    assert cifar10_top1(lambda images: np.eye(10, dtype=np.float32)[[3] * len(images)]) == pytest.approx(share)


def test_batch_that_leaves_a_remainder_is_refused() -> None:
    with pytest.raises(ValueError, match="batch 7 does not divide 512"):
        cifar10_top1(Oracle(), 7)


def test_predictor_of_another_class_count_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 1000\), expected \(1, 10\)"):
        cifar10_top1(lambda images: np.zeros((len(images), 1000), np.float32))
