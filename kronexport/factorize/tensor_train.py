"""Tensor train (Oseledets, SIAM J. Sci. Comput. 2011; for convolutions Garipov et al., 2016).

    T[n_1, ..., n_S] = sum over a, b, ... of G1[a, n_1] G2[a, b, n_2] ... GS[z, n_S]

TT-SVD splits off one core at a time by a truncated SVD; its error is at most sqrt(S - 1) times the best there is.
"""

import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronexport.factorize.network import KroneckerNetwork
from kronexport.factorize.tensor import (
    Cores,
    Size4,
    build_structure,
    check_ranks,
    core_sizes,
    network_of,
    weight_tensor,
)
from kronexport.records import Structure


def tensor_train_axes(count: int) -> tuple[str, ...]:
    """``a, ab, bc, c``: neighbours share one rank axis."""
    letters = string.ascii_lowercase[: count - 1]
    return tuple(letters[max(k - 1, 0) : k + 1] for k in range(count))


def tensor_train_structure(sizes: Sequence[Size4], ranks: Sequence[int]) -> Structure:
    """Factors of ``sizes`` = (f, c, h, w) in the order of the train; one rank fewer than factors."""
    return build_structure("tt", tensor_train_axes(len(sizes)), sizes, ranks)


def tensor_train_max_ranks(structure: Structure) -> dict[str, int]:
    """Highest rank by axis that can be told apart at the neighbours' ranks: min(left n_k, n_(k+1) right)."""
    sizes, ranks = core_sizes(structure), (1, *structure.ranks, 1)
    return {axis: min(ranks[k] * sizes[k], sizes[k + 1] * ranks[k + 2]) for k, axis in enumerate(structure.rank_sizes)}


def tensor_train(weight: NDArray[Any], structure: Structure) -> KroneckerNetwork:
    """TT cores by TT-SVD; all but the last have orthonormal columns.

    Args:
        weight: [F, C, kh, kw], floating point, finite.
        structure: rank axes as ``tensor_train_axes`` says.

    Returns:
        A network with the weight's dtype.

    Raises:
        UserInputError: the structure does not fit the weight, a rank is above the highest that can be told apart,
            or the weight is not finite.
    """
    tensor = weight_tensor(weight, structure, tensor_train_axes(len(structure.factors)))
    check_ranks(structure, tensor_train_max_ranks(structure))
    first, *middle, last = tensor_train_svd(tensor[None, ..., None], structure.ranks)
    return network_of(structure, [first[0], *middle, last[:, 0]], weight.dtype)


def tensor_train_svd(tensor: NDArray[np.float64], ranks: Sequence[int]) -> Cores:
    """Cores [left, right, n_k] of ``tensor`` [left, n_1, ..., n_S, right] by S - 1 truncated SVDs.

    Args:
        tensor: its first and last axes are the train's open ends.
        ranks: those between the cores; each at most what its SVD yields.
    """
    left, *sizes, right = tensor.shape
    cores, remainder = [], tensor
    for size, rank in zip(sizes[:-1], ranks, strict=True):
        vectors, values, others = np.linalg.svd(remainder.reshape(left * size, -1), full_matrices=False)
        cores.append(vectors[:, :rank].reshape(left, size, rank).swapaxes(1, 2))
        remainder, left = values[:rank, None] * others[:rank], rank
    return [*cores, remainder.reshape(left, sizes[-1], right).swapaxes(1, 2)]
