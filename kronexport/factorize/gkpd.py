"""Generalized Kronecker product decomposition (Hameed et al., AAAI 2022): W = sum_r A_r (x) B_r.

The rearrangement of Van Loan and Pitsianis turns the best sum of R Kronecker products into a truncated SVD
(SeKron's recursive SVD with nothing left to recurse into):

    M[(f1 c1 i1 j1), (f2 c2 i2 j2)] = W[f1 F2 + f2, c1 C2 + c2, i1 K2 + i2, j1 L2 + j2]
    min ||W - sum_r A_r (x) B_r||^2 = sum over r > R of s_r(M)^2
"""

import itertools
from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from kronexport.errors import UserInputError
from kronexport.factorize.network import KroneckerNetwork
from kronexport.factorize.sekron import recursive_svd
from kronexport.factorize.tensor import Size4, core_sizes
from kronexport.records import FactorShape, Structure


def gkpd_structure(outer: Size4, inner: Size4, rank: int) -> Structure:
    """The structure sum over ``rank`` terms of A (x) B with A of size ``outer`` = (f, c, h, w), B of size ``inner``."""
    return Structure("gkpd", (rank,), (FactorShape("a", *outer), FactorShape("a", *inner)))


def divisors(number: int) -> tuple[int, ...]:
    """All positive divisors, ascending."""
    return tuple(d for d in range(1, number + 1) if number % d == 0)


def divisor_structures(weight_shape: Size4) -> Iterator[Structure]:
    """Every GKPD structure of rank 1 of a weight [F, C, kh, kw], but the two in which a factor is a scalar."""
    filters, channels, height, width = weight_shape
    for f, c, h, w in itertools.product(*(divisors(size) for size in weight_shape)):
        outer, inner = (f, c, h, w), (filters // f, channels // c, height // h, width // w)
        if max(outer) > 1 and max(inner) > 1:
            yield gkpd_structure(outer, inner, 1)


def max_rank(structure: Structure) -> int:
    """The rank at which the structure holds any weight exactly."""
    return min(core_sizes(structure))


def gkpd(weight: NDArray[Any], structure: Structure) -> KroneckerNetwork:
    """The best weight-only factors for one GKPD structure, singular values split evenly between both sides.

    Args:
        weight: [F, C, kh, kw], finite.
        structure: two factors sharing the rank axis ``a``.

    Returns:
        A network with the weight's dtype; ||W - to_dense()||^2 is the sum of the squared singular values cut off.

    Raises:
        UserInputError: the structure does not fit the weight, its rank is above ``max_rank``, or the weight is not
            finite.
    """
    if len(structure.factors) != 2:  # noqa: PLR2004  more are SeKron
        raise UserInputError(f"GKPD: {len(structure.factors)} factors {structure}, expected 2; SeKron takes more")
    return recursive_svd(weight, structure)
