"""CP decomposition (Hitchcock 1927; for convolutions Lebedev et al., ICLR 2015): a sum of rank-one tensors.

    T[n_1, ..., n_S] = sum over a of U1[a, n_1] U2[a, n_2] ... US[a, n_S]

There is no closed form from three factors on. Alternating least squares (cp_als.py) starts from T as a sum of
orthonormal terms, whose error is known beforehand. It may end in a local minimum, so small problems are also tried from
the HOSVD (the leading left singular vectors of each unfolding, Kolda and Bader, SIAM Review 2009, section 3.4) and from
random factors, and the best is kept; for large ones that would take minutes.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronexport.factorize.cp_als import improve, orthonormal_terms
from kronexport.factorize.network import KroneckerNetwork
from kronexport.factorize.refine import check_refinable
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
_TRIAL_SWEEPS = 30
_SWEEPS = 300

_SMALL = 2**24
"""Largest size of T times rank, half the multiplications of a sweep, at which several starts are tried."""

_WORK = 2**36
"""Size of T times rank times sweeps above which there are fewer sweeps than ``_SWEEPS``: 10 to 20 s on one core."""


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
    """CP factors by alternating least squares; the same weight gives the same factors.

    Args:
        weight: [F, C, kh, kw], floating point, finite.
        structure: rank axes as ``cp_axes`` says.

    Returns:
        A network with the weight's dtype.

    Raises:
        UserInputError: the structure does not fit the weight, the rank is above the highest that is ever needed or
            takes too much memory, or the weight is not finite.
    """
    tensor = weight_tensor(weight, structure, cp_axes(len(structure.factors)))
    check_ranks(structure, cp_max_ranks(structure))
    check_refinable(structure)
    (rank,) = structure.ranks
    trials = (improve(tensor, cores, _TRIAL_SWEEPS) for cores in _starts(tensor, rank))
    best, _ = min(trials, key=lambda trial: trial[1])
    sweeps = min(_SWEEPS, _WORK // (tensor.size * rank)) - _TRIAL_SWEEPS
    cores, _ = improve(tensor, best, sweeps) if sweeps > 0 else (best, 0.0)
    return network_of(structure, cores, weight.dtype)


def _starts(tensor: NDArray[np.float64], rank: int) -> Iterator[Cores]:
    """The orthonormal terms; then the HOSVD, filled up with noise where a mode is shorter than the rank; then noise."""
    yield orthonormal_terms(tensor).cores(rank)
    if tensor.size * rank > _SMALL:
        return
    generator = np.random.default_rng(0)
    for start in range(1 + _RANDOM_STARTS):
        cores = [generator.standard_normal((rank, size)) / np.sqrt(size) for size in tensor.shape]
        if start == 0:
            for axis, core in enumerate(cores):
                vectors = leading_left(tensor, axis, rank).T
                core[: len(vectors)] = vectors
        yield cores
