"""SeKron (Hameed et al., arXiv 2210.06299): a sum of Kronecker products whose right side is such a sum again.

    W = sum_r1 A1[r1] (x) sum_r2 A2[r1 r2] (x) ... (x) AS[r1 ... r(S-1)]

Two factors are GKPD. The recursive SVD splits off one factor at a time: for every prefix p = r1 ... r(k-1), with
M_p [n_k, n_(k+1) ... n_S] the part of W that is left, A_(p r) = u_r and the part left for (p r) is s_r v_r. The
error is exactly what is cut off on the way:

    ||W - W^||^2 = sum_k sum_p sum over r > R_k of s_r(M_p)^2
"""

import math
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronexport.factorize.network import KroneckerNetwork
from kronexport.factorize.refine import refinable, refine
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


def sekron_axes(count: int) -> tuple[str, ...]:
    """``a, ab, abc, abc``: each factor has one rank axis more than the one before, the last has none of its own."""
    letters = string.ascii_lowercase[: count - 1]
    return tuple(letters[: k + 1] for k in range(count))


def sekron_structure(sizes: Sequence[Size4], ranks: Sequence[int]) -> Structure:
    """Factors of ``sizes`` = (f, c, h, w), the slowest first; one rank fewer than factors."""
    return build_structure("sekron", sekron_axes(len(sizes)), sizes, ranks)


def sekron_max_ranks(structure: Structure) -> dict[str, int]:
    """Rank by axis at which the structure holds any weight exactly: min(n_k, n_(k+1) ... n_S)."""
    sizes = core_sizes(structure)
    return {axis: min(sizes[k], math.prod(sizes[k + 1 :])) for k, axis in enumerate(structure.rank_sizes)}


def recursive_svd(weight: NDArray[Any], structure: Structure) -> KroneckerNetwork:
    """Factors by the recursive SVD, singular values split evenly between a factor and what follows it.

    The best there is for two factors; for more each SVD is the best only given those before it.

    Args:
        weight: [F, C, kh, kw], floating point, finite.
        structure: rank axes as ``sekron_axes`` says.

    Returns:
        A network with the weight's dtype.

    Raises:
        UserInputError: the structure does not fit the weight, a rank is above the highest that can be told apart,
            or the weight is not finite.
    """
    remainder = weight_tensor(weight, structure, sekron_axes(len(structure.factors)))
    check_ranks(structure, sekron_max_ranks(structure))
    cores: Cores = []
    prefix: tuple[int, ...] = ()
    for size, rank in zip(core_sizes(structure)[:-1], structure.ranks, strict=True):
        left, values, right = np.linalg.svd(remainder.reshape(*prefix, size, -1), full_matrices=False)
        root = np.sqrt(values[..., :rank, None])
        cores.append(root * left[..., :rank].swapaxes(-1, -2))
        remainder = root * right[..., :rank, :]
        prefix = (*prefix, rank)
    return network_of(structure, [*cores, remainder], weight.dtype)


def sekron(weight: NDArray[Any], structure: Structure) -> KroneckerNetwork:
    """The recursive SVD, from three factors on refined by alternating least squares wherever that is feasible.

    Arguments, result and errors are those of ``recursive_svd``.
    """
    start = recursive_svd(weight, structure)
    if len(structure.factors) == 2 or not refinable(structure):  # noqa: PLR2004  a plain SVD is the best there is
        return start
    return refine(weight, start)
