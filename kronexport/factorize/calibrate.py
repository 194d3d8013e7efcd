"""Fit the factors of a whole network to calibration images, site by site in order of execution, with error feedback.

At each site y = W x comes from the original network and x^ from the network as compressed so far, so that a later
site repairs what earlier ones spoilt. An error in an output channel counts as the BatchNorm after the conv, if there
is one, lets it through: gamma^2 / (var + eps).
"""

import copy
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from kronexport.errors import UserInputError, named
from kronexport.factorize.decompose import decompose
from kronexport.factorize.fitting import fit
from kronexport.factorize.following import row_weights
from kronexport.factorize.moments import Moments, add_batch
from kronexport.factorize.network import KroneckerNetwork
from kronexport.factorize.passes import at_input, at_output, passes, run
from kronexport.factorize.tensor import Size4
from kronexport.records import ConvGeometry, Site, Structure
from kronexport.survey.sites import SiteLayer, layer_at, layer_geometry, layer_weight

IMAGE_LIMIT = 512
"""Most calibration images used: second moments settle earlier."""
ACTIVATION_LIMIT = 2**28
"""Most values (1 GiB) that one site gets and gives for all images; both networks rest there, shortcuts beside it."""
COLUMN_LIMIT = 8192
"""Most columns D = C kh kw of a weight that is fitted: S [D, D] of more passes 256 MiB, and eight of them are held."""
_BATCH = 64
_BATCH_TOLERANCE = 1e-3
"""Relative distance of outputs computed in batches of two sizes; rounding is far below, another computation above."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Images [n, C, H, W], float32, and a batch size that the model takes for certain.

    Of more than ``limit`` images the first are used, though one batch in any case; too few for one batch are repeated.
    """

    images: NDArray[np.float32]
    batch: int
    limit: int = IMAGE_LIMIT

    @property
    def count(self) -> int:
        """How many images a fit runs: whole batches, one at least."""
        return max(1, min(len(self.images), self.limit) // self.batch) * self.batch

    @property
    def used(self) -> int:
        """How many different images a fit looks at."""
        return min(len(self.images), self.count)


def image_limit(sites: Sequence[Site]) -> int:
    """Images that a fit can hold at its widest site, at least one and at most ``IMAGE_LIMIT``."""
    widest = max(
        site.in_channels * math.prod(site.input_size) + site.out_channels * math.prod(site.output_size)
        for site in sites
    )
    return max(1, min(IMAGE_LIMIT, ACTIVATION_LIMIT // widest))


def is_too_wide(structure: Structure) -> bool:
    """Whether a weight of this structure has more columns than a fit takes."""
    return math.prod(structure.weight_shape[1:]) > COLUMN_LIMIT


def fit_network(
    model: nn.Module,
    structures: Mapping[str, Structure],
    calibration: Calibration,
    progress: Callable[[int, int], None],
) -> dict[str, KroneckerNetwork]:
    """The factors of every site in ``structures``, by name; a site of too many columns keeps those of its weight.

    Args:
        model: in eval mode, on the CPU, float32; it is not changed.
        structures: by the name of an nn.Conv2d or nn.Linear, in order of execution.
        calibration: the images.
        progress: told (done, total) sites.

    Raises:
        UserInputError: activations are NaN or infinite, or a structure does not fit its weight.
    """
    batches = _batches(model, calibration)
    compressed = copy.deepcopy(model)
    rows = row_weights(model, tuple(structures), batches[0][: calibration.batch])
    networks: dict[str, KroneckerNetwork] = {}
    with (
        passes(model, batches, structures, at_output) as dense,
        passes(compressed, batches, structures, at_input) as given,
    ):
        for done, (site, structure) in enumerate(structures.items()):
            progress(done, len(structures))
            layer = layer_at(compressed, site)
            pairs = ((one.reach(site), other.reach(site)) for one, other in zip(given, dense, strict=True))
            with named(site):
                networks[site] = _fitted(layer, structure, pairs, rows[site])
            layer_weight(layer).copy_(torch.from_numpy(networks[site].to_dense()))
    return networks


def _batches(model: nn.Module, calibration: Calibration) -> list[Tensor]:
    """The images in large batches if the model computes each image by itself, else in the size that it takes."""
    images, batch, count = calibration.images, calibration.batch, calibration.count
    used = torch.from_numpy(np.resize(images, (count, *images.shape[1:])))
    # two batches at least: one to fit to, one to judge by
    large = max(batch, min(_BATCH, count // 2) // batch * batch)
    return list(torch.split(used, large if _takes(model, used[:large], batch) else batch))


def _takes(model: nn.Module, images: Tensor, batch: int) -> bool:
    """Whether the model gives for ``images`` at once what it gives for them in batches of ``batch``."""
    with torch.no_grad():
        apart = [_first_tensor(run(model, part)) for part in torch.split(images[: 2 * batch], batch)]
        try:
            together = _first_tensor(run(model, images))
        except UserInputError:
            return False
    if not together.ndim or together.shape[0] * batch != apart[0].shape[0] * len(images):
        return False
    wanted = torch.cat(apart)
    return bool((together[: len(wanted)] - wanted).norm() <= _BATCH_TOLERANCE * wanted.norm())


def _first_tensor(output: Any) -> Tensor:
    """In float64, whatever it is: indices and masks are outputs too."""
    found = next((leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)), None)
    if found is None:
        raise UserInputError("--calibration: the model's forward gives no tensor; expected one at least")
    return found.double()


def _fitted(
    layer: SiteLayer, structure: Structure, pairs: Iterable[tuple[Tensor, Tensor]], rows: Tensor
) -> KroneckerNetwork:
    """The factors of one layer for batches of its inputs and of the outputs that are wanted."""
    weight = layer_weight(layer).numpy().copy()
    start = decompose(weight, structure)
    if is_too_wide(structure):
        deque(pairs, maxlen=0)  # every pass goes by the layer all the same
        return start
    seen, held = _halves(pairs, weight.shape, layer_geometry(layer))
    return fit(start, weight, seen, held, rows)


def _halves(
    pairs: Iterable[tuple[Tensor, Tensor]], weight_shape: Size4, geometry: ConvGeometry
) -> tuple[Moments, Moments]:
    """Moments of the even batches of inputs and outputs, and of the odd ones."""
    filters, *columns = weight_shape
    halves = [Moments.zero(filters, math.prod(columns), geometry.group) for _ in range(2)]
    for index, (inputs, targets) in enumerate(pairs):
        halves[index % 2] = add_batch(halves[index % 2], inputs, targets, geometry)
    return halves[0], halves[1]
