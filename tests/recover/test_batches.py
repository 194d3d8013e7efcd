import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from kronexport.errors import UserInputError
from kronexport.recover.batches import ImageBatches, Source, seeded
from kronexport.recover.recipe import Recipe

CPU = torch.device("cpu")
RECIPE = Recipe(batch=4)
IMAGES = torch.arange(10.0).reshape(10, 1, 1, 1).expand(10, 1, 8, 8).contiguous()
LABELS = torch.arange(10)


def epoch(source: Source, number: int, seed: int = 0) -> list[Tensor]:
    with seeded(seed, number, CPU):
        return [batch.images for batch in source.epoch(number)]


def loader() -> DataLoader[Any]:
    """One that shuffles by a generator of its own."""
    return DataLoader(TensorDataset(IMAGES, LABELS), 5, shuffle=True, generator=torch.Generator())


@pytest.mark.parametrize("data", [IMAGES, IMAGES.numpy(), loader()])
def test_an_epoch_is_the_same_again_and_unlike_the_next(data: Any) -> None:
    source = Source(data, None, RECIPE)
    first, second = epoch(source, 1), epoch(source, 2)
    assert len(first) == len(source)
    assert all(map(torch.equal, first, epoch(source, 1)))
    assert not all(map(torch.equal, first, second))


def test_whole_batches_of_different_images_with_their_labels() -> None:
    found = list(Source(IMAGES, LABELS, RECIPE).epoch(1))
    labels = torch.cat([batch.labels for batch in found if batch.labels is not None])
    assert [len(batch.images) for batch in found] == [4, 4]
    assert torch.cat([batch.images for batch in found])[:, 0, 0, 0].tolist() == labels.tolist()
    assert len(set(labels.tolist())) == 8


def test_fewer_images_than_a_batch_are_one_batch() -> None:
    assert [len(batch.images) for batch in ImageBatches(IMAGES, None, Recipe(batch=64))] == [10]


def test_what_a_batch_is_made_of_is_prepared_after_it_was_augmented() -> None:
    batches = ImageBatches(IMAGES.to(torch.uint8), None, Recipe(batch=10), lambda images: images.float() / 2)
    (batch,) = batches
    assert sorted(batch.images[:, 0, 0, 0].tolist()) == [number / 2 for number in range(10)]


def test_images_are_mixed_after_they_were_prepared() -> None:
    batches = ImageBatches(IMAGES.to(torch.uint8), None, Recipe(batch=10, mixed=1.0), lambda images: images.float() / 2)
    torch.manual_seed(0)
    (batch,) = batches
    values = batch.images[:, 0, 0, 0]
    assert (values.remainder(0.5) > 0).sum() > 5
    assert values.min() >= 0
    assert values.max() <= 4.5


def test_generators_go_on_after_an_epoch_as_if_there_had_been_none() -> None:
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002  # the generator that users' loaders draw from
    expected = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    with seeded(0, 1, CPU):
        drawn = torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002, S311
    with seeded(0, 1, CPU):
        assert drawn == (torch.rand(1), random.random(), np.random.rand())  # noqa: NPY002, S311
    assert torch.equal(torch.get_rng_state(), expected[0])
    assert random.getstate() == expected[1]
    assert np.random.get_state()[1].tolist() == expected[2]  # type: ignore[index]  # noqa: NPY002


class Stream:
    """Batches without an end that anybody knows."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter([IMAGES])


class Short(list[Tensor]):
    """Batches of which there are fewer than it says."""

    def __len__(self) -> int:
        return super().__len__() + 1


class Broken(list[Tensor]):
    """Batches that cannot be read."""

    def __iter__(self) -> Iterator[Tensor]:
        raise OSError("disk gone")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (iter([IMAGES]), "can be gone through once an epoch"),
        (5, "is a int"),
        (Stream(), "has no length"),
        ([], "is empty"),
        (Short([IMAGES]), "gave 1 batches, its length is 2"),
        (Broken([IMAGES]), "raised OSError: disk gone"),
        (["text"], "a batch is a str"),
        ([IMAGES.long()], r"images are torch.int64 \[10, 1, 8, 8\], expected floats"),
        (IMAGES[0], r"images are torch.float32 \[1, 8, 8\]"),
    ],
)
def test_data_that_cannot_be_trained_on_are_refused(data: Any, message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        epoch(Source(data, None, RECIPE), 1)


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        (IMAGES, None, "has no labels, which cross_entropy above 0 needs"),
        (IMAGES, LABELS[:3], "3 for 10 images"),
        (IMAGES, LABELS.float(), "labels are torch.float32"),
        (IMAGES, ["cat"] * 10, "labels are a list that is no array of numbers"),
        ([IMAGES], LABELS, "labels are for images in one array"),
        ([(IMAGES, LABELS[:2])], None, r"labels are torch.int64 \[2\]"),
    ],
)
def test_labels_that_do_not_fit_are_refused(data: Any, labels: Any, message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        epoch(Source(data, labels, Recipe(batch=4, cross_entropy=0.5)), 1)


def test_images_with_their_channels_turned_round_and_a_list_of_labels_are_taken() -> None:
    """Torch itself takes no negative strides."""
    images = torch.arange(24.0).reshape(2, 3, 2, 2)
    (batch,) = Source(images.numpy()[:, ::-1], [1, 0], Recipe(augment="none", cross_entropy=1.0)).epoch(1)  # type: ignore[arg-type]
    assert batch.labels is not None
    for image, label in zip(batch.images, batch.labels.tolist(), strict=True):
        assert torch.equal(image, images[1 - label].flip(0))


def test_batches_that_come_as_such_are_not_mixed_and_that_is_said() -> None:
    with pytest.raises(UserInputError, match=r"mixed=0.5 is for images in one array"):
        Source([IMAGES], None, Recipe(batch=4, mixed=0.5))
    assert len(epoch(Source(IMAGES, None, Recipe(batch=4, mixed=0.5)), 1)) == 2
