"""The weight error of every GKPD structure of one weight at every rank, from few matrix products.

The squared singular values of a structure's M (gkpd.py) are the eigenvalues of a Gram matrix. Its rows n are the
entries of the smaller factor; m is the rest of an index of W:

    G[n, n'] = sum over m of M[n, m] M[n', m]
    ||W - W^||^2 at rank R = ||W||^2 - sum over r <= R of eigenvalue_r(G)

A factor that divides another needs no product of its own. Where the larger one's rows are (n, t), its Gram matrix has
all sums but that over t (a partial trace):

    G[n, n'] = sum over t of G_larger[(n, t), (n', t)]

So the factors of a weight hang together in trees, of which only the roots are multiplied out.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronexport.factorize.gkpd import divisor_structures, divisors, max_rank
from kronexport.factorize.tensor import Size4
from kronexport.records import Structure

SPECTRUM_MACS = 2**33
"""Most multiply-accumulates for one Gram matrix by a product (docs/decisions/0007)."""

Axis = tuple[int, int]
"""How many entries a factor has along a mode of W and how far apart they lie there; (1, 1) if it has no part in it."""

Side = tuple[Axis, ...]
"""A factor's axes along f, c, h, w: the rows of a Gram matrix. Factors with equal sides have equal spectra."""

Spectrum = NDArray[np.float32]
"""||W - W^||^2 / ||W||^2 at rank 1, 2, ... ``max_rank``."""


@dataclass(frozen=True, slots=True)
class Forest:
    """The sides of all structures of a weight: where each comes from.

    ``branches`` holds by side the smaller ones whose Gram matrix is a partial trace of its own.
    """

    sides: Mapping[Structure, Side]
    roots: Sequence[Side]
    branches: Mapping[Side, Sequence[Side]]


def scanned_structures(weight_shape: Size4) -> Iterator[Structure]:
    """Those of ``divisor_structures`` whose Gram matrix takes at most ``SPECTRUM_MACS``, and the low-rank pairs.

    That is all, but in the largest layers, such as a VGG's linear ones. In a low-rank pair the first factor has all
    filters, the second all channels.
    """
    filters, channels, *_ = weight_shape
    for unit in divisor_structures(weight_shape):
        outer, inner = unit.factors
        low_rank = (outer.f, inner.c) == (filters, channels)
        if low_rank or math.prod(weight_shape) * max_rank(unit) <= SPECTRUM_MACS:
            yield unit


def squared_errors(weight: NDArray[Any], check: Callable[[], None] = lambda: None) -> dict[Structure, Spectrum]:
    """The spectrum of each of ``scanned_structures``, in their order; zeros for a weight of zeros.

    Good to about 1e-6: enough to choose by; the error that is reported comes from ``to_dense``.

    Args:
        weight: [F, C, kh, kw], finite.
        check: called before each spectrum; what it raises ends the work.
    """
    scaled = scaled_weight(weight)
    trees = forest(scaled.shape)
    energy = float(np.einsum("fckl,fckl->", scaled, scaled, dtype=np.float64))
    spectra = {}
    for root in trees.roots:
        for side, gram in _grow(root, _gram_matrix(scaled, root), trees.branches):
            check()
            spectra[side] = _errors(np.linalg.eigvalsh(gram), energy)
    return {structure: spectra[side] for structure, side in trees.sides.items()}


def scaled_weight(weight: NDArray[Any]) -> NDArray[np.float32]:
    """The weight with a largest entry of 1, so that float32 holds its squares; zeros stay."""
    wide = weight.astype(np.result_type(weight.dtype, np.float32), copy=False)  # half precision would round again
    largest = float(np.abs(wide).max())
    return (wide / largest if largest else wide).astype(np.float32)


def _errors(energies: NDArray[np.float32], total: float) -> Spectrum:
    """What is left of ``total`` after the largest energies one by one, as a share; ``energies`` ascend."""
    if total == 0:
        return np.zeros(len(energies), np.float32)
    return np.clip(1 - np.cumsum(energies[::-1], dtype=np.float64) / total, 0, 1).astype(np.float32)


@lru_cache(maxsize=64)
def forest(weight_shape: Size4) -> Forest:
    """The trees of a weight [F, C, kh, kw]; a side grows from the smallest that it divides."""
    sides = {structure: _shorter_side(structure) for structure in scanned_structures(weight_shape)}
    roots: list[Side] = []
    branches: dict[Side, list[Side]] = {}
    every = set(sides.values())
    for side in sorted(every):
        larger = [other for other in _multiples(side, weight_shape) if other in every]
        if larger:
            branches.setdefault(min(larger, key=rows), []).append(side)
        else:
            roots.append(side)
    return Forest(sides, roots, branches)


def rows(side: Side) -> int:
    """Of the side's Gram matrix."""
    return math.prod(size for size, _ in side)


def _shorter_side(structure: Structure) -> Side:
    """Of equals the first in order: a structure that splits no mode shares its side with its mirror image."""
    outer, inner = structure.factors
    slow = tuple((size, gap if size > 1 else 1) for size, gap in zip(outer.size, inner.size, strict=True))
    fast = tuple((size, 1) for size in inner.size)
    return min(slow, fast, key=lambda side: (rows(side), side))


def _multiples(side: Side, weight_shape: Size4) -> Iterator[Side]:
    """The sides with a prime times as many entries along one mode: rows (n, t) or (t, n) where ``side`` has n."""
    for mode, ((size, gap), whole) in enumerate(zip(side, weight_shape, strict=True)):
        for times in _primes(whole // size):
            gaps = {1, whole // times} if size == 1 else {max(gap // times, 1)}
            for new_gap in gaps:
                yield (*side[:mode], (size * times, new_gap), *side[mode + 1 :])


def _primes(number: int) -> list[int]:
    """The prime divisors."""
    return [d for d in divisors(number) if len(divisors(d)) == 2]  # noqa: PLR2004  1 and itself


def _gram_matrix(weight: NDArray[np.float32], side: Side) -> NDArray[np.float32]:
    """[rows, rows] by a product over all of W."""
    # each mode of W as (slower than the side's entries, the entries, faster)
    parts = [(whole // (size * gap), size, gap) for whole, (size, gap) in zip(weight.shape, side, strict=True)]
    split = weight.reshape([number for part in parts for number in part])
    matrix = split.transpose(1, 4, 7, 10, 0, 2, 3, 5, 6, 8, 9, 11).reshape(rows(side), -1)
    gram: NDArray[np.float32] = matrix @ matrix.T
    return gram


def _grow(
    side: Side, gram: NDArray[np.float32], branches: Mapping[Side, Sequence[Side]]
) -> Iterator[tuple[Side, NDArray[np.float32]]]:
    """The side and all that grow from it, each with its Gram matrix; depth first, so that few are held at a time."""
    yield side, gram
    for branch in branches.get(side, ()):
        yield from _grow(branch, _partial_trace(gram, side, branch), branches)


def _partial_trace(gram: NDArray[np.float32], side: Side, branch: Side) -> NDArray[np.float32]:
    """The Gram matrix of ``branch``, which differs from ``side`` in one mode."""
    mode = next(mode for mode in range(len(side)) if side[mode] != branch[mode])
    (size, gap), (kept, kept_gap) = side[mode], branch[mode]
    before, after = rows(side[:mode]), rows(side[mode + 1 :])
    if gap == kept_gap:  # the kept entries are the fast ones: (t, n)
        after *= kept
    else:
        before *= kept
    blocks = gram.reshape(2 * (before, size // kept, after))
    traced: NDArray[np.float32] = np.trace(blocks, axis1=1, axis2=4)
    return traced.reshape(2 * (before * after,))
