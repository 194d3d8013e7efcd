"""A search for the channel orders in which a GKPD structure approximates a weight best.

With the weight permuted to W[p][:, q], M as in ``kronexport.factorize.gkpd`` and U its R leading left singular vectors,
what the structure captures is ||U^T M||^2. U held, the change by every swap of two channels follows from two tables:

    Z[a, n] = U_a^T W_n            slice n of the weight, if its index in the first factor were a        [R, d]
    Y[b]    = sum over slots (a, b) of Z[a, n of the slot]                                               [R, d]
    swap of the slots s, t:   2 <Y_s, D_s> + ||D_s||^2 + 2 <Y_t, D_t> + ||D_t||^2 (+ 2 <D_s, D_t> if b is the same)
    D_s = Z[a_s, n_t] - Z[a_s, n_s],   D_t = Z[a_t, n_s] - Z[a_t, n_t]

The best U for the new order captures at least as much, so a swap that gains here gains in truth: a local search that
never gets worse. It runs from the given order, from a clustering and from random orders.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronexport.factorize.tensor import core_sizes, rearrange
from kronexport.records import Structure

Order = NDArray[np.intp]
"""``order[s]`` is the channel of the given weight that slot s takes."""

MODES = {"filters": 0, "channels": 1}
_LEAST_GAIN = 1e-6
"""Of ||W||^2: swaps that gain less are float32 noise."""


@dataclass(frozen=True, slots=True)
class Found:
    """The best orders of filters and of channels met, and ||W - W^||^2 / ||W||^2 in them."""

    filters: Order
    channels: Order
    squared_error: float


def free_modes(structure: Structure) -> tuple[str, ...]:
    """The modes whose order the error depends on: those that both factors share."""
    outer, inner = structure.factors
    sizes = {"filters": min(outer.f, inner.f), "channels": min(outer.c, inner.c)}
    return tuple(mode for mode, size in sizes.items() if size > 1)


def permuted(weight: NDArray[Any], found: Found) -> NDArray[Any]:
    """W[p][:, q], [F, C, kh, kw]."""
    return weight[found.filters][:, found.channels]


def search(weight: NDArray[np.float32], structure: Structure, modes: Sequence[str], starts: int, seed: int) -> Found:
    """The best orders met from ``starts`` starts: the given one, a clustering, then random ones.

    Args:
        weight: [F, C, kh, kw].
        structure: GKPD, of the rank that counts.
        modes: which of ``filters`` and ``channels`` may be permuted.
        starts: at least 1.
        seed: of the random starts.
    """
    begin = list(_starts(weight, modes, starts, np.random.default_rng(seed)))
    return min((_climb(weight, structure, modes, start) for start in begin), key=lambda found: found.squared_error)


def _starts(
    weight: NDArray[np.float32], modes: Sequence[str], count: int, random: np.random.Generator
) -> Iterator[Found]:
    given = Found(np.arange(weight.shape[0]), np.arange(weight.shape[1]), math.inf)
    yield given
    if count > 1:
        yield _reordered(given, {mode: _clustered(weight, MODES[mode]) for mode in modes})
    for _ in range(count - 2):
        yield _reordered(given, {mode: random.permutation(weight.shape[MODES[mode]]) for mode in modes})


def _reordered(found: Found, orders: Mapping[str, Order]) -> Found:
    """``found`` with other orders, its error not known yet."""
    return Found(orders.get("filters", found.filters), orders.get("channels", found.channels), math.inf)


def _clustered(weight: NDArray[np.float32], axis: int) -> Order:
    """Slices sorted along their first principal direction: neighbours are alike."""
    slices = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    left, _, _ = np.linalg.svd(slices, full_matrices=False)
    return np.argsort(left[:, 0], kind="stable")


def _climb(weight: NDArray[np.float32], structure: Structure, modes: Sequence[str], start: Found) -> Found:
    """Swaps until none gains in any mode, whichever factor's singular vectors are held."""
    best = replace(start, squared_error=_error(weight, structure, start))
    while True:
        before = best.squared_error
        for mode, held in itertools.product(modes, _smaller_first(structure)):
            best = _best_swaps(weight, structure, mode, held, best)
        if best.squared_error > before - _LEAST_GAIN:
            return best


def _smaller_first(structure: Structure) -> tuple[int, ...]:
    """The two factors; held vectors of the smaller side bind less."""
    first, second = core_sizes(structure)
    return (0, 1) if first <= second else (1, 0)


def truncation_errors(weight: NDArray[Any], structure: Structure) -> NDArray[np.float32]:
    """||W - W^||^2 / ||W||^2 of one structure at rank 1, 2, ...; the search needs no other's."""
    energies = np.square(np.linalg.svd(rearrange(weight, structure), compute_uv=False), dtype=np.float64)
    errors: NDArray[np.float32] = np.clip(1 - np.cumsum(energies) / energies.sum(), 0, 1).astype(np.float32)
    return errors


def _error(weight: NDArray[np.float32], structure: Structure, found: Found) -> float:
    return float(truncation_errors(permuted(weight, found), structure)[structure.ranks[0] - 1])


def _best_swaps(weight: NDArray[np.float32], structure: Structure, mode: str, held: int, found: Found) -> Found:
    """As many of the best disjoint swaps as gain together; ``found`` itself if not even the best does."""
    gains = swap_gains(permuted(weight, found), structure, MODES[mode], held)
    swaps = _disjoint(gains, _LEAST_GAIN * float(np.sum(np.square(weight, dtype=np.float64))))
    while swaps:
        order = getattr(found, mode).copy()
        for s, t in swaps:
            order[[s, t]] = order[[t, s]]
        tried = _reordered(found, {mode: order})
        tried = replace(tried, squared_error=_error(weight, structure, tried))
        if tried.squared_error < found.squared_error:
            return tried
        swaps = swaps[: len(swaps) // 2]
    return found


def _disjoint(gains: NDArray[Any], least: float) -> list[tuple[int, int]]:
    taken: set[int] = set()
    swaps = []
    rows, columns = np.nonzero(np.triu(gains, 1) > least)
    for index in np.argsort(-gains[rows, columns], kind="stable"):
        pair = int(rows[index]), int(columns[index])
        if not taken & set(pair):
            taken |= set(pair)
            swaps.append(pair)
    return swaps


def swap_gains(weight: NDArray[np.float32], structure: Structure, axis: int, held: int) -> NDArray[np.float32]:
    """What swapping slots s and t of mode ``axis`` adds to ||U^T M||^2, U held: [slots, slots], symmetric.

    Args:
        weight: [F, C, kh, kw] in the order of now.
        structure: GKPD; ``ranks[0]`` vectors of U are held.
        axis: 0 for filters, 1 for channels.
        held: index of the factor whose singular vectors U are; 1 is the same for M^T.
    """
    slots = np.arange(weight.shape[axis])
    coordinates = np.divmod(slots, structure.factors[1].size[axis])
    first, second = coordinates[held], coordinates[1 - held]
    basis = _leading(weight, structure, axis, held)
    # Z[a, n]: [a, n, R d]
    parts = np.einsum("amr,nmd->anrd", basis, _slices(weight, structure, axis, held), optimize=True)
    parts = parts.reshape(len(basis), len(slots), -1)
    sums = np.zeros((int(second.max()) + 1, parts.shape[2]), dtype=parts.dtype)  # Y
    np.add.at(sums, second, parts[first, slots])
    with_sum = np.stack([parts[a] @ sums[b] for a, b in zip(first, second, strict=True)])  # <Y_s, Z[a_s, n]>
    products = (parts @ parts.transpose(0, 2, 1))[first]  # <Z[a_s, n], Z[a_s, n']>: [s, n, n']
    norms = np.diagonal(products, axis1=1, axis2=2)  # [s, n]
    change = 2 * (with_sum - np.diagonal(with_sum)[:, None]) + norms + np.diagonal(norms)[:, None]
    change -= 2 * products[slots, slots]
    gains: NDArray[np.float32] = change + change.T
    s, t = np.nonzero((second[:, None] == second) & (first[:, None] != first))
    there, back = parts[first[s], t] - parts[first[s], s], parts[first[t], s] - parts[first[t], t]
    gains[s, t] += 2 * np.einsum("ix,ix->i", there, back)
    return gains


def _leading(weight: NDArray[Any], structure: Structure, axis: int, held: int) -> NDArray[np.float32]:
    """U as [index in mode ``axis``, m, R], of the factor ``held``."""
    matrix = rearrange(weight, structure)
    matrix = matrix if held == 0 else matrix.T
    rank = structure.ranks[0]
    if matrix.shape[0] <= matrix.shape[1]:
        vectors = np.linalg.eigh(matrix @ matrix.T)[1][:, ::-1][:, :rank]
    else:
        right = np.linalg.eigh(matrix.T @ matrix)[1][:, ::-1][:, :rank]
        vectors, _ = np.linalg.qr(matrix @ right)
    size = structure.factors[held].size
    return np.moveaxis(vectors.reshape(*size, -1), axis, 0).reshape(size[axis], -1, vectors.shape[1])


def _slices(weight: NDArray[Any], structure: Structure, axis: int, held: int) -> NDArray[Any]:
    """Each slice of mode ``axis`` as a matrix with the other modes of the factor ``held`` down: [slots, m, d]."""
    sizes = [size for mode in range(4) if mode != axis for size in (factor.size[mode] for factor in structure.factors)]
    split = np.moveaxis(weight, axis, 0).reshape(-1, *sizes)
    rows, columns = (1, 3, 5), (2, 4, 6)
    down, across = (rows, columns) if held == 0 else (columns, rows)
    height = math.prod(split.shape[axis] for axis in down)
    return split.transpose(0, *down, *across).reshape(len(split), height, -1)
