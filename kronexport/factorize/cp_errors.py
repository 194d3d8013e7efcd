"""The weight error of CP with the kernel as one mode, at every rank, from least squares at five of them.

    W[f, c, i, j] ~ sum over a of  U1[a, f] U2[a, (i j)] U3[a, c]         pointwise, depthwise k x k, pointwise

The orthonormal start of cp_als.py has a known error at every rank. What least squares makes of it depends smoothly on
the rank, so that ratio is measured at a few ranks and its logarithm interpolated (docs/decisions/0010).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronexport.factorize.cp import cp_max_ranks, cp_structure
from kronexport.factorize.cp_als import OrthonormalTerms, improve, orthonormal_terms
from kronexport.factorize.spectra import scaled_weight
from kronexport.factorize.tensor import Size4, rearrange
from kronexport.records import Structure

ANCHORS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)
"""Where least squares is run: the rank at which CP has this part of the weight's params."""

_WORK = 3 * 2**30
"""Size of W times rank, half the multiplications of a sweep, above which an anchor is left out: 10 s on one core."""

SWEEPS = 30
"""Of least squares at an anchor; ``decompose`` makes more, and reaches a little less error."""

_ROUNDING = 1e-6
"""Squared errors below this part of ||W||^2 are float32's rounding."""


def cp_units(weight_shape: Size4) -> Iterator[Structure]:
    """CP of rank 1 with the kernel between filters and channels; none where one of the three has size 1."""
    filters, channels, height, width = weight_shape
    if min(filters, channels, height * width) > 1:
        yield cp_structure([(filters, 1, 1, 1), (1, 1, height, width), (1, channels, 1, 1)], (1,))


def cp_errors(weight: NDArray[Any], check: Callable[[], None] = lambda: None) -> dict[Structure, NDArray[np.float32]]:
    """||W - W^||^2 / ||W||^2 at rank 1, 2, ... the highest, of each of ``cp_units``; zeros for a weight of zeros.

    At an anchor it is that of a CP that was found, so hardly any fit is worse; between anchors it is within about 5 %
    of one found there.

    Args:
        weight: [F, C, kh, kw], finite.
        check: called before each sweep; what it raises ends the work.
    """
    return {unit: _errors(scaled_weight(weight), unit, check) for unit in cp_units(weight.shape)}


def _errors(weight: NDArray[np.float32], unit: Structure, check: Callable[[], None]) -> NDArray[np.float32]:
    tensor = np.ascontiguousarray(rearrange(weight, unit))
    terms = orthonormal_terms(tensor)
    tails = terms.tails[: cp_max_ranks(unit)["a"]]
    if not tails.any():
        return tails.astype(np.float32)
    even = weight.size / unit.params
    anchors = sorted({min(max(1, round(part * even)), len(tails)) for part in ANCHORS})
    ranks = [rank for rank in anchors if rank * weight.size <= _WORK]
    ratios = [_log_ratio(tensor, terms, rank, check) for rank in ranks]
    errors: NDArray[np.float32] = (tails * np.exp(_interpolated(ranks, ratios, len(tails)))).astype(np.float32)
    return errors


def _log_ratio(tensor: NDArray[np.float32], terms: OrthonormalTerms, rank: int, check: Callable[[], None]) -> float:
    """The logarithm of the error after least squares over that before."""
    before = float(terms.tails[rank - 1])
    if before <= _ROUNDING:
        return 0.0
    _, squared_error = improve(tensor, terms.cores(rank), SWEEPS, check)
    total = float(np.sum(np.square(tensor, dtype=np.float64)))
    return min(0.0, math.log(max(squared_error / total, _ROUNDING) / before))


def _interpolated(ranks: Sequence[int], values: Sequence[float], count: int) -> NDArray[np.float64]:
    """``values``, known at ``ranks``, at 1 to ``count``: linear from 0 at rank 0, where there is nothing to improve.

    Above the last rank it is as steep as below it; the true curve falls faster there.
    """
    at, known = np.array([0, *ranks]), np.array([0.0, *values])
    every = np.arange(1, count + 1)
    slope = min(0.0, (known[-1] - known[-2]) / (at[-1] - at[-2])) if ranks else 0.0
    return np.asarray(np.interp(every, at, known) + slope * np.maximum(0, every - at[-1]))
