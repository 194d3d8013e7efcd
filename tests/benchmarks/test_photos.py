import numpy as np

from benchmarks.photos import image_of, pixels_of, square


def test_the_middle_square_is_kept() -> None:
    pixels = np.zeros((3, 4, 8), np.uint8)
    pixels[:, :, 2:6] = 200
    (middle,) = pixels_of([square(image_of(pixels), 4)])
    assert middle.shape == (3, 4, 4)
    assert (middle == 200).all()
