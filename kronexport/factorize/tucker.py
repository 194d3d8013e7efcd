"""Tucker decomposition (Tucker, Psychometrika 1966): one matrix a mode and a core that joins them.

    T[n_1, ..., n_(S-1), n_S] = sum over a, b, ... of U1[a, n_1] U2[b, n_2] ... G[a, b, ..., n_S]

The core is the last factor; a mode left whole is its n_S. Tucker-2 of a convolution (Kim et al., ICLR 2016) has
matrices for F and C and the kernel in the core: a pointwise, a k x k and a pointwise conv. Higher-order orthogonal
iteration (De Lathauwer, De Moor, Vandewalle, SIAM J. Matrix Anal. Appl. 2000) starts from the truncated HOSVD and sets
each U to the leading left singular vectors of T projected on all the others; the error never goes up.
"""

import math
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronexport.factorize.network import KroneckerNetwork
from kronexport.factorize.tensor import (
    Size4,
    build_structure,
    check_ranks,
    core_sizes,
    network_of,
    weight_tensor,
)
from kronexport.records import Structure

_SWEEPS = 100
_STALLED = 1e-6
"""A sweep that adds less than this part of ||T||^2 to the squared norm of the core is the last."""


def tucker_axes(count: int) -> tuple[str, ...]:
    """``a, b, c, abc``: one rank axis a matrix, and the core, last, has them all."""
    letters = string.ascii_lowercase[: count - 1]
    return (*letters, letters)


def tucker_structure(sizes: Sequence[Size4], ranks: Sequence[int]) -> Structure:
    """Matrices of ``sizes`` = (f, c, h, w), then the core, whose size holds the modes left whole; a rank a matrix."""
    return build_structure("tucker", tucker_axes(len(sizes)), sizes, ranks)


def tucker2_structure(sizes: Sequence[Size4], ranks: Sequence[int]) -> Structure:
    """Tucker with two matrices, usually (F, 1, 1, 1) and (1, C, 1, 1), and the core (1, 1, kh, kw)."""
    return build_structure("tucker2", tucker_axes(3), sizes, ranks)


def tucker_max_ranks(structure: Structure) -> dict[str, int]:
    """Highest rank by axis that can be told apart at the other ranks: min(n_k, n_S times all other ranks)."""
    *sizes, core = core_sizes(structure)
    joint = core * math.prod(structure.ranks)
    return {
        axis: min(size, joint // rank) for (axis, rank), size in zip(structure.rank_sizes.items(), sizes, strict=True)
    }


def tucker(weight: NDArray[Any], structure: Structure) -> KroneckerNetwork:
    """Tucker factors by higher-order orthogonal iteration; the matrices have orthonormal rows.

    Args:
        weight: [F, C, kh, kw], floating point, finite.
        structure: rank axes as ``tucker_axes`` says.

    Returns:
        A network with the weight's dtype.

    Raises:
        UserInputError: the structure does not fit the weight, a rank is above the highest that can be told apart,
            or the weight is not finite.
    """
    tensor = weight_tensor(weight, structure, tucker_axes(len(structure.factors)))
    check_ranks(structure, tucker_max_ranks(structure))
    matrices = [leading_left(tensor, k, rank) for k, rank in enumerate(structure.ranks)]
    total, before = float(np.sum(np.square(tensor))), -np.inf
    for _ in range(_SWEEPS):
        for k, rank in enumerate(structure.ranks):
            rest = [None if other == k else matrix for other, matrix in enumerate(matrices)]
            matrices[k] = leading_left(_project(tensor, rest), k, rank)
        core = _project(tensor, matrices)
        energy = float(np.sum(np.square(core)))
        if energy - before <= _STALLED * total:
            break
        before = energy
    return network_of(structure, [*(matrix.T for matrix in matrices), core], weight.dtype)


def leading_left(tensor: NDArray[np.float64], axis: int, rank: int) -> NDArray[np.float64]:
    """The first ``rank`` left singular vectors of ``tensor`` unfolded along ``axis``: [n, min(rank, n)].

    They are the eigenvectors of the unfolding's Gram matrix, which is much smaller. That loses the directions whose
    singular value is below 1e-8 of the largest, so the projection is at most that much worse.
    """
    unfolded = np.moveaxis(tensor, axis, 0).reshape(tensor.shape[axis], -1)
    _, vectors = np.linalg.eigh(unfolded @ unfolded.T)
    return np.asarray(vectors[:, ::-1][:, :rank])


def _project(tensor: NDArray[np.float64], matrices: Sequence[NDArray[np.float64] | None]) -> NDArray[np.float64]:
    """``tensor`` with axis k turned from n_k to its rank by matrices[k] [n_k, rank]; None leaves the axis."""
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            tensor = np.moveaxis(np.tensordot(tensor, matrix, axes=(axis, 0)), -1, axis)
    return tensor
