import numpy as np
import pytest

from sample_models import calibration, cifar10


def test_cifar10_images_are_the_shipped_training_images() -> None:
    images = calibration.cifar10_images()
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, cifar10.normalize(cifar10.read_sample("train").pixels))


def test_imagenet_images_keep_each_image_s_colour() -> None:
    scaled, original = calibration.imagenet_images(), calibration.cifar10_images()[:16]
    assert scaled.shape == (16, 3, 224, 224)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.mean(axis=(2, 3)), original.mean(axis=(2, 3)), atol=0.02)


def test_imagenet_images_are_interpolated_not_repeated() -> None:
    """Neighbouring pixels differ less than they do in the image that was scaled up by 7."""
    scaled, original = calibration.imagenet_images(), calibration.cifar10_images()[:16]
    step = np.abs(np.diff(scaled, axis=3)).max()
    assert step < np.abs(np.diff(original, axis=3)).max() / 4


def test_edsr_patches_are_pixels_from_0_to_255() -> None:
    patches = calibration.edsr_patches()
    assert patches.shape == (16, 3, 64, 64)
    assert patches.dtype == np.float32
    assert patches.min() >= 0
    assert patches.max() == pytest.approx(255, abs=10)
