"""What ships is what is scored: the evaluator sees the engine as a predictor of any number of samples."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kronexport.records import InputSpec
from kronexport.verify.score import Predictor, score_engine

SPEC = InputSpec("image", (4, 1, 2, 2))


class Doubling:
    """An engine of a static batch, as runners are; gives twice its input and, as a second output, zeros."""

    def infer(self, feeds: Mapping[str, NDArray[Any]], most: int | None = None) -> dict[str, NDArray[Any]]:
        assert most == SPEC.shape[0], "also where the batch is dynamic no more at once than is planned for"
        (images,) = feeds.values()
        assert list(feeds) == ["image"]
        assert images.shape[0] % SPEC.shape[0] == 0, "a runner takes whole batches only"
        assert images.dtype == np.float32
        assert images.flags.c_contiguous
        return {"twice": 2 * images, "zeros": 0 * images}


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8])
def test_a_predictor_takes_any_number_of_samples(count: int) -> None:
    """What fills the last batch does not come back."""
    images = np.arange(count * 4, dtype=np.float32).reshape(count, 1, 2, 2)

    def evaluate(predict: Predictor) -> float:
        np.testing.assert_array_equal(predict(images), 2 * images)
        return 0.25

    assert score_engine(Doubling(), SPEC, evaluate) == 0.25


def test_images_may_lie_in_memory_as_they_like() -> None:
    """A user's loader often gives channels last, transposed."""
    images = np.arange(16, dtype=np.float32).reshape(4, 2, 2, 1).transpose(0, 3, 1, 2)
    score = score_engine(Doubling(), SPEC, lambda predict: float(predict(images).sum()))
    assert score == 2 * images.sum()
