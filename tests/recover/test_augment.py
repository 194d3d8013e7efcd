import pytest
import torch
from torch import nn

from kronexport.recover.augment import augmented, mixed


def test_an_image_becomes_a_crop_of_its_reflection_or_of_the_mirror_of_that() -> None:
    images = torch.arange(3 * 16 * 24.0).reshape(1, 3, 16, 24).repeat(40, 1, 1, 1)
    torch.manual_seed(0)
    found = augmented(images, "shift-flip")
    padded = nn.functional.pad(images[:1], (3, 3, 2, 2), mode="reflect")
    crops = [padded[0, :, top : top + 16, left : left + 24] for top in range(5) for left in range(7)]
    plain = [any(torch.equal(image, crop) for crop in crops) for image in found]
    mirrored = [any(torch.equal(image, crop.flip(2)) for crop in crops) for image in found]
    assert all(one or other for one, other in zip(plain, mirrored, strict=True))
    assert 0 < sum(mirrored) < len(found)
    assert len({image.numpy().tobytes() for image in found}) > 20


def test_shifts_alone_do_not_mirror() -> None:
    images = torch.arange(8.0).expand(30, 1, 8, 8)
    assert (augmented(images, "shift")[:, :, :, 2:6].diff(dim=3) > 0).all()


def test_bytes_stay_bytes_and_none_is_none() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert augmented(images, "shift-flip").dtype == torch.uint8
    assert augmented(images, "none") is images


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_so_many_images_are_each_a_mixture_of_two(part: float) -> None:
    images = torch.eye(200)[:, :, None, None].expand(-1, -1, 2, 3).contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    found = mixed(images, part)
    shares = found[:, :, 0, 0]
    torch.testing.assert_close(shares.sum(1), torch.ones(200), rtol=1e-6, atol=0)
    assert ((shares > 0).sum(1) <= 2).all()
    own = shares.diagonal()
    assert abs(float((own < 1).float().mean()) - part) <= 0.1
    assert own[own < 1].numel() == 0 or abs(float(own[own < 1].mean()) - 0.5) < 0.1
    assert found.is_contiguous(memory_format=torch.channels_last)
