"""Tensor ring (Zhao et al., arXiv 1606.05535; for convolutions Wang et al., CVPR 2018): a train closed to a ring.

    T[n_1, ..., n_S] = sum over a, b, ..., z of G1[z, a, n_1] G2[a, b, n_2] ... GS[y, z, n_S]

TR-SVD (Zhao et al.) cuts the ring open by a truncated SVD of T[n_1, the rest] at rank z a, and TT-SVD does the rest.
Where it cuts changes what it finds, so every cut is tried and the best is refined by alternating least squares.
"""

import itertools
import math
import operator
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronexport.errors import UserInputError
from kronexport.factorize.network import KroneckerNetwork
from kronexport.factorize.refine import refine_best
from kronexport.factorize.tensor import (
    Cores,
    Size4,
    build_structure,
    check_ranks,
    core_sizes,
    network_of,
    weight_tensor,
)
from kronexport.factorize.tensor_train import tensor_train_svd
from kronexport.records import Structure


def tensor_ring_axes(count: int) -> tuple[str, ...]:
    """``da, ab, bc, cd``: neighbours share one rank axis, and so do the last and the first."""
    letters = string.ascii_lowercase[:count]
    return tuple(letters[k - 1] + letters[k] for k in range(count))


def tensor_ring_structure(sizes: Sequence[Size4], ranks: Sequence[int]) -> Structure:
    """Factors of ``sizes`` = (f, c, h, w) in the order of the ring; rank k joins factors k and k + 1."""
    return build_structure("tr", tensor_ring_axes(len(sizes)), sizes, ranks)


def tensor_ring_max_ranks(structure: Structure) -> dict[str, int]:
    """Highest rank by axis that is of use.

    At the neighbours' ranks no more than min(left n_k, n_(k+1) right) can be told apart; and no train, wherever the
    ring is opened to one, needs more than the smaller side of T split at this bond and at the opening.
    """
    sizes, ranks, count = core_sizes(structure), structure.ranks, len(structure.factors)
    most = {}
    for k, axis in enumerate(structure.rank_sizes):
        onwards = list(itertools.accumulate((sizes[(k + step) % count] for step in range(1, count)), operator.mul))
        train = max(min(side, math.prod(sizes) // side) for side in onwards)
        following = (k + 1) % count
        most[axis] = min(ranks[k - 1] * sizes[k], sizes[following] * ranks[following], train)
    return most


def tensor_ring(weight: NDArray[Any], structure: Structure) -> KroneckerNetwork:
    """TR-SVD from every cut, refined by alternating least squares.

    Args:
        weight: [F, C, kh, kw], floating point, finite.
        structure: rank axes as ``tensor_ring_axes`` says, three factors at least.

    Returns:
        A network with the weight's dtype.

    Raises:
        UserInputError: the structure does not fit the weight or has two factors, a rank is above the highest that
            can be told apart, or the weight is not finite.
    """
    count = len(structure.factors)
    tensor = weight_tensor(weight, structure, tensor_ring_axes(count))
    if count == 2:  # noqa: PLR2004  two bonds between the same two factors
        raise UserInputError(f"tr: {structure} is a ring of 2 factors, which is GKPD at the product of the ranks")
    check_ranks(structure, tensor_ring_max_ranks(structure))
    starts = []
    for cut in range(count):
        turned = tensor.transpose([(k + cut) % count for k in range(count)])
        cores = tensor_ring_svd(turned, [structure.ranks[(k + cut) % count] for k in range(count)])
        starts.append(network_of(structure, [cores[k - cut] for k in range(count)], weight.dtype))
    return refine_best(weight, starts)


def tensor_ring_svd(tensor: NDArray[np.float64], ranks: Sequence[int]) -> Cores:
    """Cores [rank before, rank after, n_k] of ``tensor`` [n_1, ..., n_S]; ``ranks[-1]`` closes the ring.

    Where ``ranks[-1] ranks[0]`` is more than the first SVD yields, the first core is filled up with noise that the
    second meets with zeros: W^ is the same, and alternating least squares can use the room.
    """
    first, *sizes = tensor.shape
    closing, opening = ranks[-1], ranks[0]
    left, values, right = np.linalg.svd(tensor.reshape(first, -1), full_matrices=False)
    kept = min(closing * opening, len(values))
    vectors = np.random.default_rng(0).standard_normal((first, closing * opening)) / np.sqrt(first)
    vectors[:, :kept] = left[:, :kept]
    remainder = np.zeros((closing * opening, right.shape[1]))
    remainder[:kept] = values[:kept, None] * right[:kept]
    train = np.moveaxis(remainder.reshape(closing, opening, *sizes), 0, -1)
    return [vectors.T.reshape(closing, opening, first), *tensor_train_svd(train, ranks[1:-1])]
