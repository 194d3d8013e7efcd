"""CP decomposition (Hitchcock 1927; for convolutions Lebedev et al., ICLR 2015): a sum of rank-one tensors.

    T[n_1, ..., n_S] = sum over a of U1[a, n_1] U2[a, n_2] ... US[a, n_S]

There is no closed form from three factors on. Alternating least squares starts from the HOSVD (the leading left
singular vectors of each unfolding, Kolda and Bader, SIAM Review 2009, section 3.4) and from random factors, since
it may end in a local minimum; the best is kept.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from kronexport.factorize.tucker import leading_left
from kronexport.records import Structure

_RANDOM_STARTS = 3


def cp_axes(count: int) -> tuple[str, ...]:
    """``a, a, a``: one rank axis that all share."""
    return ("a",) * count


def cp_structure(sizes: Sequence[Size4], ranks: Sequence[int]) -> Structure:
    """Factors of ``sizes`` = (f, c, h, w); one rank."""
    return build_structure("cp", cp_axes(len(sizes)), sizes, ranks)


def cp_max_ranks(structure: Structure) -> dict[str, int]:
    """The rank at which the structure surely holds any weight exactly: all n but the largest, multiplied."""
    sizes = core_sizes(structure)
    return {"a": math.prod(sizes) // max(sizes)}


def cp(weight: NDArray[Any], structure: Structure) -> KroneckerNetwork:
    """CP factors by alternating least squares from several starts; the same weight gives the same factors.

    Args:
        weight: [F, C, kh, kw], floating point, finite.
        structure: rank axes as ``cp_axes`` says.

    Returns:
        A network with the weight's dtype.

    Raises:
        UserInputError: the structure does not fit the weight, the rank is above the highest that is ever needed,
            or the weight is not finite.
    """
    tensor = weight_tensor(weight, structure, cp_axes(len(structure.factors)))
    check_ranks(structure, cp_max_ranks(structure))
    (rank,) = structure.ranks
    return refine_best(weight, (network_of(structure, cores, weight.dtype) for cores in _starts(tensor, rank)))


def _starts(tensor: NDArray[np.float64], rank: int) -> Iterator[Cores]:
    """The HOSVD, filled up with noise where a mode is shorter than the rank, then noise alone."""
    generator = np.random.default_rng(0)
    for start in range(1 + _RANDOM_STARTS):
        cores = [generator.standard_normal((rank, size)) / np.sqrt(size) for size in tensor.shape]
        if start == 0:
            for axis, core in enumerate(cores):
                vectors = leading_left(tensor, axis, rank).T
                core[: len(vectors)] = vectors
        yield cores
