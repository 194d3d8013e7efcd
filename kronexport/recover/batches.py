"""What a network is trained on: batches that are the same again for the same seed and epoch.

All that is random in an epoch follows from the seed and the number of the epoch, so that a resumed run needs no state
of any generator, and goes on bit by bit as if it had not been interrupted.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kronexport.errors import UserInputError
from kronexport.recover.augment import augmented, mixed
from kronexport.recover.recipe import Recipe
from kronexport.survey.imports import USER_EXCEPTIONS, describe

PLACE = "distil: data"
_IMAGE_RANK = 4

Data = NDArray[Any] | Tensor | Iterable[Any]
"""Images [n, C, H, W], or batches: an iterable with a length, as a DataLoader is one."""


class Batch(NamedTuple):
    """``images`` [N, C, H, W] as the model takes them; ``labels`` int64 [N], or None."""

    images: Tensor
    labels: Tensor | None


class ImageBatches:
    """Images in memory, shuffled and augmented anew each time that they are gone through.

    Args:
        images: [n, C, H, W].
        labels: int64 [n], or None.
        recipe: its ``batch`` (a last incomplete one is left out, unless it is the only one), ``augment`` and ``mixed``.
        prepare: what makes an augmented batch what the model takes, such as floats of bytes.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None,
        recipe: Recipe,
        prepare: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._images, self.labels = images, labels
        self._recipe, self._prepare = recipe, prepare

    def __len__(self) -> int:
        return max(1, len(self._images) // self._recipe.batch)

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(len(self._images))
        batch = self._recipe.batch
        for step in range(len(self)):
            chosen = order[step * batch : (step + 1) * batch]
            images = augmented(self._images[chosen], self._recipe.augment)
            yield Batch(
                mixed(images if self._prepare is None else self._prepare(images), self._recipe.mixed),
                None if self.labels is None else self.labels[chosen],
            )


class Source:
    """Batches of ``data``, epoch by epoch.

    Raises:
        UserInputError: it cannot be gone through again and again, has no length, or holds nothing.
    """

    def __init__(self, data: Data, labels: NDArray[Any] | Tensor | None, recipe: Recipe) -> None:
        self._batches = _batches(data, labels, recipe)
        self._seed = recipe.seed
        self.needs_labels = recipe.cross_entropy > 0

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def labels(self) -> Tensor | None:
        """int64 [n], of all images in memory; None where they come with the batches, or there are none."""
        return self._batches.labels if isinstance(self._batches, ImageBatches) else None

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of epoch ``number``; to be gone through within ``seeded``."""
        generator = getattr(self._batches, "generator", None)
        if isinstance(generator, torch.Generator):  # a DataLoader's own
            generator.manual_seed(_epoch_seed(self._seed, number))
        yielded = 0
        for item in _user_batches(self._batches):
            yielded += 1
            yield self._checked(item)
        if yielded != len(self):
            raise UserInputError(
                f"{PLACE}: gave {yielded} batches, its length is {len(self)}; expected as many each time: the schedule "
                f"of learning rates goes by it"
            )

    def _checked(self, item: object) -> Batch:
        batch = _as_batch(item)
        if self.needs_labels:
            if batch.labels is None:
                raise UserInputError(
                    f"{PLACE}: has no labels, which cross_entropy above 0 needs; give labels, or cross_entropy=0"
                )
            if batch.labels.shape != batch.images.shape[:1] or batch.labels.is_floating_point():
                raise UserInputError(
                    f"{PLACE}: labels are {batch.labels.dtype} {list(batch.labels.shape)}, expected a whole number for "
                    f"each of {len(batch.images)} images"
                )
        return batch


@contextmanager
def seeded(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """The generators of torch, numpy and Python start from ``seed`` and ``epoch``; afterwards they are as before."""
    start = _epoch_seed(seed, epoch)
    python, array = random.getstate(), np.random.get_state()  # noqa: NPY002  # what users' loaders draw from
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(start)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(start)
        random.seed(start)
        np.random.seed(start % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)  # noqa: NPY002


def _epoch_seed(seed: int, epoch: int) -> int:
    """63 bits, far apart for seeds and epochs that are near."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _batches(data: Data, labels: NDArray[Any] | Tensor | None, recipe: Recipe) -> Any:
    if isinstance(data, (np.ndarray, Tensor)):
        images = _images(data)
        if labels is not None and len(labels) != len(images):
            raise UserInputError(f"distil: labels: {len(labels)} for {len(images)} images; expected one for each")
        return ImageBatches(images, None if labels is None else _labels(labels), recipe)
    if recipe.mixed and not isinstance(data, ImageBatches):
        raise UserInputError(
            f"distil: mixed={recipe.mixed:g} is for images in one array; let the batches come mixed, or set it to 0"
        )
    if labels is not None:
        raise UserInputError("distil: labels are for images in one array; let a batch be a pair: images, labels")
    if not isinstance(data, Iterable) or isinstance(data, Iterator):
        raise UserInputError(
            f"{PLACE}: is a {type(data).__name__}, expected what can be gone through once an epoch: an array, a list "
            f"of batches or a DataLoader"
        )
    if not isinstance(data, Sized) or not _length(data):
        raise UserInputError(
            f"{PLACE}: is empty or has no length; expected at least one batch, and a length: the schedule of learning "
            f"rates goes by it"
        )
    return data


def _length(data: Sized) -> int:
    try:
        return len(data)
    except TypeError:  # a DataLoader over a stream says so only when asked
        return 0


def _user_batches(batches: Iterable[Any]) -> Iterator[Any]:
    try:
        yield from batches
    except USER_EXCEPTIONS as error:
        raise UserInputError(f"{PLACE}: raised {describe(error)}") from error


def _as_batch(item: object) -> Batch:
    """Of a tensor, an array, or a sequence that begins with one and may go on with labels."""
    parts = list(item) if isinstance(item, (tuple, list)) else [item]
    labels = parts[1] if len(parts) > 1 and isinstance(parts[1], (np.ndarray, Tensor)) else None
    return Batch(_images(parts[0] if parts else None), None if labels is None else _labels(labels))


def _images(images: object) -> Tensor:
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.ascontiguousarray(images))  # torch takes no negative strides
    if not isinstance(images, Tensor):
        raise UserInputError(f"{PLACE}: a batch is a {type(images).__name__}, expected an array or tensor of images")
    if images.ndim != _IMAGE_RANK or not len(images) or not images.is_floating_point():
        raise UserInputError(
            f"{PLACE}: images are {images.dtype} {list(images.shape)}, expected floats [N, C, H, W], preprocessed as "
            f"the model was trained"
        )
    return images.detach().float()


def _labels(labels: object) -> Tensor:
    """Of an array, a tensor or a list of numbers."""
    try:
        found = labels if isinstance(labels, Tensor) else torch.from_numpy(np.array(labels))
    except (TypeError, ValueError) as error:
        raise UserInputError(
            f"{PLACE}: labels are a {type(labels).__name__} that is no array of numbers ({error}); expected a whole "
            f"number for each image"
        ) from error
    return found if found.is_floating_point() else found.long()
