"""The weight error of Tucker-2 at every pair of ranks, from one HOSVD (De Lathauwer, De Moor, Vandewalle 2000).

With U1, U2 the eigenvectors of the Gram matrices of W's filters and channels, the largest eigenvalue first,

    G[a, b, i, j] = sum over f, c of  U1[f, a] U2[c, b] W[f, c, i, j]
    ||W - W^||^2 at ranks (R1, R2) = ||W||^2 - sum over a <= R1, b <= R2, i, j of G[a, b, i, j]^2

since U1 and U2 are orthonormal: sums along both axes give all pairs at once. Higher-order orthogonal iteration, with
which ``decompose`` goes on, lowers that by little.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronexport.factorize.spectra import scaled_weight
from kronexport.factorize.tensor import Size4
from kronexport.factorize.tucker import leading_left, tucker2_structure
from kronexport.records import Structure


def tucker2_units(weight_shape: Size4) -> Iterator[Structure]:
    """Tucker-2 of ranks 1 with the kernel in the core; none where filters, channels or kernel have size 1."""
    filters, channels, height, width = weight_shape
    if min(filters, channels, height * width) > 1:
        yield tucker2_structure([(filters, 1, 1, 1), (1, channels, 1, 1), (1, 1, height, width)], (1, 1))


def tucker2_errors(
    weight: NDArray[Any], check: Callable[[], None] = lambda: None
) -> dict[Structure, NDArray[np.float32]]:
    """||W - W^||^2 / ||W||^2 of the truncated HOSVD: [R1 - 1, R2 - 1] up to F and C; zeros for a weight of zeros.

    Args:
        weight: [F, C, kh, kw], finite.
        check: called before the work; what it raises ends it.
    """
    check()
    return {unit: _errors(scaled_weight(weight).astype(np.float64)) for unit in tucker2_units(weight.shape)}


def _errors(weight: NDArray[np.float64]) -> NDArray[np.float32]:
    filters, channels, *_ = weight.shape
    core = np.tensordot(leading_left(weight, 0, filters), weight, axes=(0, 0))
    core = np.tensordot(leading_left(weight, 1, channels), core, axes=(0, 1))
    kept = np.cumsum(np.cumsum(np.einsum("bakl,bakl->ab", core, core), axis=0), axis=1)
    total = kept[-1, -1]
    if total == 0:
        return np.zeros(kept.shape, np.float32)
    errors: NDArray[np.float32] = np.clip(1 - kept / total, 0, 1).astype(np.float32)
    return errors
