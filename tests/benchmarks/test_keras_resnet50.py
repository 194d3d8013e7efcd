from pathlib import Path

import numpy as np
import pytest

from benchmarks.keras_resnet50 import keras_resnet50, preprocess
from sample_models.resnet import resnet50


def test_a_stage_has_its_stride_in_its_first_pointwise_conv(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    np.savez(path, **{name: value.numpy() for name, value in resnet50().state_dict().items()})
    model = keras_resnet50(path)
    assert not model.training
    assert model.get_submodule("layer3.0.conv1").stride == (2, 2)
    assert model.get_submodule("layer3.0.conv2").stride == (1, 1)
    assert model.bn1.eps == pytest.approx(1e-3)


def test_pixels_become_bgr_less_the_mean() -> None:
    pixels = np.array([1, 2, 3], np.uint8).reshape(1, 3, 1, 1)
    assert preprocess(pixels).ravel() == pytest.approx([3 - 103.939, 2 - 116.779, 1 - 123.68])
