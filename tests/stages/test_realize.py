"""What a network is made real with."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kronexport.stages.realize import range_feeds


@pytest.mark.parametrize(("images", "batch", "feeds"), [(5, 2, 2), (4, 4, 1), (3, 8, 1)])
def test_ranges_are_of_whole_batches_and_of_one_at_least(images: int, batch: int, feeds: int) -> None:
    """Fewer images than a batch are repeated."""
    calibration = np.arange(images * 3, dtype=np.float32).reshape(images, 1, 1, 3)
    given = SimpleNamespace(name="x", shape=(batch, 1, 1, 3))
    project: Any = SimpleNamespace(golden=None, calibration=calibration, input=given)
    found = range_feeds(project)
    assert [feed["x"].shape for feed in found] == [given.shape] * feeds
    used = np.concatenate([feed["x"] for feed in found])
    np.testing.assert_array_equal(used, calibration[np.arange(len(used)) % images])
