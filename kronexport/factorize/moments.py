"""Second moments of a convolution: all that a fit has to know of the calibration images, however many they are.

With x^ the patch that the conv sees at one output position, flattened in the order (c, i, j), D = C kh kw values, and
y the output that is wanted there:

    gram = sum x^ x^T  [G, D, D]        cross = sum y x^T  [F, D]        energy = sum y^2  [F]
    sum of ||y - W^ x^||^2 over the patches = sum over f of (W^ gram W^T - 2 W^ cross^T)_ff + energy_f

With y = W x from the original network, cross = W sum x x^T. Both sums grow batch by batch in bounded memory.
A grouped conv has C / G channels a patch, and one gram for each of its G groups of channels; a plain conv has G = 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kronexport.errors import UserInputError
from kronexport.records import ConvGeometry

DOUBLE_LIMIT = 1200
"""Above this D the sums are float32: twice the speed, half the memory, and still good to about 1e-5."""
_CHUNK_BYTES = 64 * 2**20
"""Most memory for the patches at once, where one row of output positions takes no more."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Sums over ``count`` patches, see the module; float64, or float32 above ``DOUBLE_LIMIT``."""

    gram: Tensor
    cross: Tensor
    energy: Tensor
    count: int

    @classmethod
    def zero(cls, filters: int, size: int, groups: int = 1) -> "Moments":
        """Nothing seen yet; ``size`` is D."""
        dtype = torch.float64 if size <= DOUBLE_LIMIT else torch.float32
        gram, cross = torch.zeros(groups, size, size, dtype=dtype), torch.zeros(filters, size, dtype=dtype)
        return cls(gram, cross, torch.zeros(filters, dtype=dtype), 0)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.gram + other.gram, self.cross + other.cross, self.energy + other.energy, self.count + other.count
        )


def add_batch(moments: Moments, inputs: Tensor, targets: Tensor, geometry: ConvGeometry) -> Moments:
    """``moments`` and those of one batch; the matrix products are float32, their sum has the dtype of ``moments``.

    Args:
        moments: the sums so far; their memory is used for the result.
        inputs: x^ as the conv gets it, [N, C, H, W], any memory format.
        targets: y without bias, [N, F, H', W'].
        geometry: how the conv walks over its input.

    Raises:
        UserInputError: a value is NaN or infinite.
    """
    groups, size, _ = moments.gram.shape
    for patches, wanted in _chunks(inputs, targets, geometry):
        split = patches.reshape(groups, size, -1)
        moments.gram.add_(split @ split.mT)
        moments.cross.add_((wanted.reshape(groups, -1, wanted.shape[1]) @ split.mT).reshape(moments.cross.shape))
        moments.energy.add_(wanted.square().sum(dim=1))
    if not torch.isfinite(moments.gram.diagonal(dim1=1, dim2=2).sum() + moments.energy.sum()):
        raise UserInputError("calibration: activations are NaN or infinite; check the images and the weights")
    positions = targets.shape[0] * targets.shape[2] * targets.shape[3]
    return Moments(moments.gram, moments.cross, moments.energy, moments.count + positions)


def _chunks(inputs: Tensor, targets: Tensor, geometry: ConvGeometry) -> Iterator[tuple[Tensor, Tensor]]:
    """Patches [D, n h W'] and targets [F, n h W'] of as many images, or rows of one, as the memory allows at once."""
    filters, height, width = targets.shape[1:]
    row_bytes = 4 * inputs.shape[1] * geometry.kernel[0] * geometry.kernel[1] * width
    images, rows = max(1, _CHUNK_BYTES // (row_bytes * height)), max(1, _CHUNK_BYTES // row_bytes)
    for start in range(0, len(inputs), images):
        windows = _windows(inputs[start : start + images], geometry)
        wanted = targets[start : start + images].transpose(0, 1)
        size = windows.shape[:3].numel()
        for top in range(0, height, rows):
            part = slice(top, top + rows)
            yield windows[..., part, :].reshape(size, -1), wanted[:, :, part].reshape(filters, -1)


def _windows(inputs: Tensor, geometry: ConvGeometry) -> Tensor:
    """[N, C, H, W] -> a view [C, kh, kw, N, H', W'] of the zero-padded images."""
    top, left, bottom, right = geometry.pads
    images = F.pad(inputs, (left, right, top, bottom)).transpose(0, 1).contiguous()
    channels, count = images.shape[:2]
    out = geometry.output_size((inputs.shape[2], inputs.shape[3]))
    over_c, over_n, over_h, over_w = images.stride()
    (down, across), (dilation_h, dilation_w) = geometry.stride, geometry.dilation
    return images.as_strided(
        (channels, *geometry.kernel, count, *out),
        (over_c, over_h * dilation_h, over_w * dilation_w, over_n, over_h * down, over_w * across),
    )
