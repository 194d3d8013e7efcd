"""What goes into the model, and what scores it: ``--input``, ``--calibration``, ``--evaluate``."""

import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from kronexport.errors import UserInputError
from kronexport.records import InputSpec
from kronexport.survey.imports import USER_EXCEPTIONS, call_user, describe, load_callable

Images = NDArray[np.float32]
Predictor = Callable[[Images], Images]

CALIBRATION_LIMIT = 1024
"""Most samples taken from a folder or a function: statistics settle earlier, and a data loader may never end."""
_INPUT = re.compile(r"(?:(?P<name>[^=]+)=)?(?P<sizes>-?\d+(?:x-?\d+)*)")
_IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_ARRAY_KEY, _LABELS_KEY = "images", "labels"
_MODES = {1: "L", 3: "RGB"}  # Pillow's name for that many channels
_DEEP_MODES = {"I", "F"}  # 16 and 32 bits, and floats
_RANK = 4


def parse_input(text: str) -> InputSpec:
    """``[NAME=]1x3x224x224`` -> the input's name (``input`` if none is given) and shape [N, C, H, W].

    Raises:
        UserInputError: it does not read so, or is not four sizes of at least 1.
    """
    match = _INPUT.fullmatch(text.strip())
    if match is None:
        raise UserInputError(f"--input {text!r} is not understood; expected [NAME=]NxCxHxW, such as 1x3x224x224")
    shape = checked_shape([int(size) for size in match["sizes"].split("x")], repr(text))
    return InputSpec((match["name"] or "input").strip(), shape)


def checked_shape(sizes: Sequence[int], given: str) -> tuple[int, ...]:
    """``sizes`` as [N, C, H, W]; ``given`` is what the user wrote. UserInputError unless they are four, all >= 1."""
    if len(sizes) != _RANK:
        raise UserInputError(f"--input {given} has {len(sizes)} sizes; expected four, NxCxHxW, such as 1x3x224x224")
    if min(sizes) < 1:
        raise UserInputError(f"--input {given} has a size below 1; every one of NxCxHxW must be at least 1")
    return tuple(sizes)


def is_folder(spec: str | None) -> bool:
    """Whether ``spec`` names a folder of images, to which mean and std apply."""
    return spec is not None and Path(spec).expanduser().is_dir()


def load_calibration(
    spec: str, input_spec: InputSpec, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Images:
    """What ``--calibration`` names: see ``load_images``."""
    return load_images(spec, input_spec, mean, std, option="--calibration", limit=CALIBRATION_LIMIT)


def load_images(
    spec: str,
    input_spec: InputSpec,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    *,
    option: str,
    limit: int,
) -> Images:
    """Samples without labels, float32 [samples, C, H, W] as the model wants them.

    Args:
        spec: A .npy or .npz file of preprocessed floats (key ``images``, or the only array); a folder of images, with
            its subfolders; or ``mod:function`` (also ``path/file.py:function``), which returns or yields batches:
            arrays or tensors, or tuples that begin with one, as a DataLoader yields them.
        input_spec: What the model takes: C, H and W must agree.
        mean: For images, per channel after division by 255; zeros if None.
        std: For images, per channel; ones if None.
        option: What the spec was given for; it opens every message.
        limit: Most samples taken from a folder or a function.

    Images are read as RGB (as grey for one channel) and resized to H x W by bilinear interpolation, not cropped. From
    more than ``limit`` images every n-th is taken, in order of their paths; of batches, the first ones.

    Raises:
        UserInputError: nothing there, unreadable, NaN or infinity, another type, size or number of channels; ``mean``
            or ``std`` for what is preprocessed already.
    """
    place = f"{option} {spec}"
    path = Path(spec).expanduser()
    if path.is_dir():
        normal = _per_channel(mean, 0.0, input_spec), _per_channel(std, 1.0, input_spec)
        return _images(path, input_spec, *normal, place=place, limit=limit)
    if mean is not None or std is not None:
        raise UserInputError(
            f"{place}: --mean and --std are for a folder of images; leave them out: this is used as it is"
        )
    if path.suffix in {".npy", ".npz"}:
        return _checked(_array(path, place), input_spec, place)
    if ":" in spec:
        return gathered(call_user(load_callable(spec, option), doing=place), input_spec, place, limit)
    state = "is neither .npy nor .npz" if path.exists() else "does not exist"
    raise UserInputError(f"{place}: {state}; expected a .npy or .npz file, a folder of images, or mod:function")


def load_labels(spec: str, count: int, option: str) -> NDArray[np.int64] | None:
    """The array ``labels`` of a .npz file, int64 [``count``]; None where there is none.

    Raises:
        UserInputError: they are no whole numbers, below 0, or not one for each sample.
    """
    path = Path(spec).expanduser()
    if path.suffix != ".npz" or not path.is_file():
        return None
    place = f"{option} {spec}: {_LABELS_KEY}"
    labels = _arrays(path, place).get(_LABELS_KEY)
    if labels is None:
        return None
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise UserInputError(
            f"{place}: {labels.dtype} {list(labels.shape)}, expected a class of at least 0 for each of {count} images"
        )
    return labels.astype(np.int64)


def scored(function: Callable[[Predictor], Any], predictor: Predictor, place: str) -> float:
    """What the user's ``function`` gives for ``predictor``.

    Raises:
        UserInputError: it raises, or gives anything but one finite number; the message begins with ``place``.
    """
    score = call_user(function, predictor, doing=place)
    if isinstance(score, (np.ndarray, np.generic, torch.Tensor)) and math.prod(score.shape) == 1:
        score = score.item()
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
        raise UserInputError(
            f"{place}: returned {score!r}, a {type(score).__name__}; expected one finite number, higher is better"
        )
    return float(score)


def load_evaluator(spec: str) -> Callable[[Predictor], float]:
    """The user's ``mod:function``, which scores a predictor; higher is better.

    A predictor takes a float32 batch [N, C, H, W] and gives the network's output. The evaluator that is returned
    raises UserInputError when the user's function raises, or gives anything but one finite number.
    """
    function = load_callable(spec, "--evaluate")

    def evaluate(predictor: Predictor) -> float:
        return scored(function, predictor, f"--evaluate {spec}")

    return evaluate


def _arrays(path: Path, place: str) -> dict[str, NDArray[Any]]:
    try:
        # numpy leaves the file open when it fails, so it is given an open one.
        with path.open("rb") as stream:
            content = np.load(stream, allow_pickle=False)
            return {_ARRAY_KEY: content} if isinstance(content, np.ndarray) else dict(content)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserInputError(f"{place}: cannot be read ({error}); save it with numpy.save or numpy.savez") from error


def _array(path: Path, place: str) -> NDArray[Any]:
    arrays = _arrays(path, place)
    key = next(iter(arrays)) if len(arrays) == 1 else _ARRAY_KEY
    if key not in arrays:
        raise UserInputError(
            f"{place}: holds the arrays {', '.join(arrays) or '(none)'}; expected one named {_ARRAY_KEY!r}, or only one"
        )
    return arrays[key]


def _checked(samples: NDArray[Any], input_spec: InputSpec, place: str) -> Images:
    """``samples`` as float32, if they are finite floats of the input's size."""
    expected = f"[samples, {', '.join(map(str, input_spec.shape[1:]))}]"
    if samples.ndim != _RANK or samples.shape[1:] != input_spec.shape[1:]:
        raise UserInputError(
            f"{place}: has shape {list(samples.shape)}; expected {expected}, as --input says; "
            f"preprocess it to that size, or correct --input"
        )
    if not len(samples):
        raise UserInputError(f"{place}: is empty; expected {expected} with at least one sample")
    if not np.issubdtype(samples.dtype, np.floating):
        raise UserInputError(f"{place}: is {samples.dtype}; expected floats, preprocessed as the model was trained")
    with np.errstate(over="ignore"):  # a float64 too large for float32 is reported as an infinity below
        samples = samples.astype(np.float32, copy=False)
    bad = int(samples.size - np.isfinite(samples).sum())
    if bad:
        raise UserInputError(f"{place}: {bad} of {samples.size} values are NaN or infinite; expected finite numbers")
    return samples


def _images(folder: Path, input_spec: InputSpec, mean: Images, std: Images, *, place: str, limit: int) -> Images:
    channels = input_spec.shape[1]
    if channels not in _MODES:
        raise UserInputError(f"{place}: images have 1 or 3 channels, the input has {channels}; give a .npy file")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _IMAGE_SUFFIXES and path.is_file())
    if not paths:
        raise UserInputError(f"{place}: holds no image ({', '.join(sorted(_IMAGE_SUFFIXES))}); give a folder of images")
    every = math.ceil(len(paths) / limit)
    return np.stack([(_image(path, input_spec) - mean) / std for path in paths[::every]])


def _image(path: Path, input_spec: InputSpec) -> Images:
    """float32 [C, H, W] in 0..1."""
    _, channels, height, width = input_spec.shape
    try:
        with Image.open(path) as image:
            if image.mode.partition(";")[0] in _DEEP_MODES:
                raise UserInputError(
                    f"{path}: has pixels of more than 8 bits (mode {image.mode}), which are clipped to 8; preprocess "
                    f"such images as the model was trained, and give a .npy file"
                )
            resized = image.convert(_MODES[channels]).resize((width, height), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # all that Pillow's readers raise
        raise UserInputError(f"{path}: cannot be read as an image ({error}); remove or replace it") from error
    pixels = np.asarray(resized, np.float32).reshape(height, width, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) / np.float32(255)


def _per_channel(values: Sequence[float] | None, default: float, input_spec: InputSpec) -> Images:
    """[C, 1, 1]."""
    channels = input_spec.shape[1]
    given = [default] * channels if values is None else list(values)
    option = "--std" if default else "--mean"
    if len(given) != channels:
        raise UserInputError(f"{option} has {len(given)} values; the input has {channels} channels: give one for each")
    if not all(map(math.isfinite, given)) or (default and min(given) <= 0):
        raise UserInputError(f"{option} {given}: expected finite numbers{', above 0' if default else ''}")
    return np.array(given, np.float32).reshape(channels, 1, 1)


def gathered(source: object, input_spec: InputSpec, place: str, limit: int = CALIBRATION_LIMIT) -> Images:
    """The first ``limit`` samples of ``source``, float32 [samples, C, H, W].

    Args:
        source: one array or tensor, or batches: an iterable of arrays, of tensors, or of tuples that begin with one,
            as a DataLoader yields them.
        input_spec: What the model takes: C, H and W must agree.
        place: opens every message.
        limit: most samples taken.

    Raises:
        UserInputError: nothing there, NaN or infinity, another type, size or number of channels.
    """
    if isinstance(source, (np.ndarray, torch.Tensor)):
        source = [source]
    if not isinstance(source, Iterable):
        raise UserInputError(f"{place}: is a {type(source).__name__}; expected batches, yielded or in a list")
    batches: list[Images] = []
    for index, batch in enumerate(_user_iteration(source, place)):
        batches.append(_checked(_batch_array(batch, f"{place}: batch {index}"), input_spec, f"{place}: batch {index}"))
        if sum(map(len, batches)) >= limit:
            break
    if not batches:
        raise UserInputError(f"{place}: holds nothing; expected at least one batch")
    return np.concatenate(batches)[:limit]


def _user_iteration(batches: Iterable[Any], place: str) -> Iterator[Any]:
    try:
        yield from batches
    except USER_EXCEPTIONS as error:
        raise UserInputError(f"{place}: raised {describe(error)}") from error


def _batch_array(batch: object, place: str) -> NDArray[Any]:
    samples = next(iter(batch), None) if isinstance(batch, (tuple, list)) else batch
    if isinstance(samples, torch.Tensor):
        return samples.detach().cpu().float().numpy() if samples.is_floating_point() else samples.cpu().numpy()
    if isinstance(samples, np.ndarray):
        return samples
    raise UserInputError(f"{place}: is a {type(samples).__name__}; expected an array or tensor of images")
