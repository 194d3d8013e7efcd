"""CP of a plain tensor: a start whose error is known at every rank, and alternating least squares from there.

The start keeps the two longest modes of T, rotates each of the others by its own singular vectors, and takes the SVD of
every slice that is left:

    T = sum over slices p of  b_p (x) M_p = sum over p, r of  s_pr  b_p (x) u_pr (x) v_pr

These terms are orthonormal, so of R of them the R largest are the best, and the squared error is that of all others.

A sweep solves for one core after the other (Kolda and Bader, SIAM Review 2009, section 3.4):

    N X_k = B_k,    N[a, a'] = prod over j != k of (X_j X_j^T)[a, a']
                    B_k[a, n_k] = sum over all other n of  T[n_1, ..., n_S] prod over j != k of X_j[a, n_j]

T is multiplied twice, by the cores of its two longest modes; all else is small. numpy alone, whose matrix products and
solvers let other threads run.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""float32 or float64, all of a call alike."""

_PROXIMAL = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-12}
"""Weight of ||X - X_before||^2 against a unit diagonal of N: a singular N does no harm, and no step goes up."""

_STALLED = 1e-6
"""A sweep that lowers the squared error by less than this part of it is the last."""


@dataclass(frozen=True, slots=True)
class OrthonormalTerms:
    """T as a sum of orthonormal rank-one terms, the largest first. ``order``: the modes of T, the two longest first.

    ``values`` are the weights; term t lies in slice ``slices[t]`` as its pair of singular vectors ``vectors[t]``.
    ``left`` [slice, n, vector], ``right`` [slice, vector, n]; ``bases`` [n, n] of the other modes, a column a vector.
    """

    order: tuple[int, ...]
    values: Array
    slices: NDArray[np.int64]
    vectors: NDArray[np.int64]
    left: Array
    right: Array
    bases: tuple[Array, ...]

    @property
    def tails(self) -> Array:
        """The squared error of the first 1, 2, ... terms, as a share of ||T||^2, in float64; zeros if T is zero."""
        energies = np.square(self.values, dtype=np.float64)
        sums = np.cumsum(energies)
        return np.clip(1 - sums / sums[-1], 0, 1) if sums[-1] > 0 else np.zeros(len(sums))

    def cores(self, rank: int) -> list[Array]:
        """The first ``rank`` terms as CP cores [rank, n_k]; zeros where there are fewer."""
        slices, vectors = self.slices[:rank], self.vectors[:rank]
        parts = [self.left[slices, :, vectors], self.right[slices, vectors]]
        places = np.unravel_index(slices, [basis.shape[1] for basis in self.bases]) if self.bases else ()
        parts += [basis[:, place].T for basis, place in zip(self.bases, places, strict=True)]
        # each core has its share of the weight, so that all norms are alike
        weight = self.values[:rank, None] ** (1 / len(parts))
        cores: dict[int, Array] = {}
        for mode, part in zip(self.order, parts, strict=True):
            cores[mode] = np.zeros((rank, part.shape[1]), part.dtype)
            cores[mode][: len(part)] = part * weight
        return [cores[mode] for mode in range(len(parts))]


def orthonormal_terms(tensor: Array) -> OrthonormalTerms:
    """The terms of a tensor of two modes or more."""
    order = longest_first(tensor.shape)
    core = tensor.transpose(order)
    bases = []
    for mode in range(2, core.ndim):
        unfolded = np.moveaxis(core, mode, 0).reshape(core.shape[mode], -1)
        _, basis = np.linalg.eigh(unfolded @ unfolded.T)
        core = np.moveaxis(np.tensordot(core, basis, axes=(mode, 0)), -1, mode)
        bases.append(basis)
    slices = np.moveaxis(core.reshape(*core.shape[:2], -1), -1, 0)
    left, values, right = np.linalg.svd(slices, full_matrices=False)
    largest = np.argsort(-values, axis=None, kind="stable")
    of_slice, of_vector = np.divmod(largest, values.shape[1])
    return OrthonormalTerms(order, values.ravel()[largest], of_slice, of_vector, left, right, tuple(bases))


def improve(
    tensor: Array, cores: Sequence[Array], sweeps: int, check: Callable[[], None] = lambda: None
) -> tuple[list[Array], float]:
    """The cores after at most so many sweeps, and ||T - T^||^2, good to rounding of ||T||^2.

    Args:
        tensor: [n_1, ..., n_S], S at least 2.
        cores: [rank, n_k] each.
        sweeps: at least one; fewer are made where they gain nothing more.
        check: called before each sweep; what it raises ends the work.
    """
    order = longest_first(tensor.shape)
    longest, second, *_ = order
    total = float(np.sum(np.square(tensor, dtype=np.float64)))
    rounding = float(np.finfo(tensor.dtype).eps) * total
    found, before = list(cores), math.inf
    for _ in range(sweeps):
        check()
        found = _balanced(found)
        product = _multiplied(tensor, found[longest], longest)
        for mode in order[1:]:
            _solve(found, mode, _contracted(product, found, [m for m in order[1:] if m != mode], longest))
        product = _multiplied(tensor, found[second], second)
        projected = _contracted(product, found, order[2:], second)
        squared_error = total + _solve(found, longest, projected)
        if squared_error <= rounding or before - squared_error <= _STALLED * squared_error:
            break
        before = squared_error
    return found, max(squared_error, 0.0)


def longest_first(shape: Sequence[int]) -> tuple[int, ...]:
    """The modes by falling size."""
    return tuple(sorted(range(len(shape)), key=lambda mode: -shape[mode]))


def _multiplied(tensor: Array, core: Array, mode: int) -> Array:
    """[rank, all other modes in order]."""
    product: Array = np.tensordot(core, tensor, axes=(1, mode))
    return product


def _contracted(product: Array, cores: Sequence[Array], modes: Sequence[int], gone: int) -> Array:
    """[rank, n] of ``product`` [rank, all modes but ``gone``], contracted with the cores of ``modes``."""
    for mode in sorted(modes, reverse=True):
        axis = 1 + mode - (mode > gone)
        flat = product.reshape(len(product), math.prod(product.shape[1:axis]), product.shape[axis], -1)
        product = np.einsum("rang,rn->rag", flat, cores[mode]).reshape(
            *product.shape[:axis], *product.shape[axis + 1 :]
        )
    return product


def _solve(cores: list[Array], mode: int, projected: Array) -> float:
    """Replace one core by the best one; returns ||T - T^||^2 - ||T||^2."""
    core = cores[mode]
    normal = np.ones((len(core), len(core)), core.dtype)
    for other, factor in enumerate(cores):
        if other != mode:
            normal *= factor @ factor.T
    scale = np.sqrt(np.diag(normal))
    scale[scale == 0] = 1
    scaled = normal / np.outer(scale, scale)
    scaled[np.diag_indices_from(scaled)] += _PROXIMAL[core.dtype]
    core = core + np.linalg.solve(scaled, (projected - normal @ core) / scale[:, None]) / scale[:, None]
    cores[mode] = core
    return float(np.sum(core * (normal @ core - 2 * projected), dtype=np.float64))


def _balanced(cores: Sequence[Array]) -> list[Array]:
    """The same terms with cores of equal norm, so that none runs off to infinity; as they are if one is zero."""
    norms = np.array([np.linalg.norm(core) for core in cores], dtype=np.float64)
    if not norms.all():
        return list(cores)
    factors = np.exp(np.mean(np.log(norms))) / norms
    return [core * core.dtype.type(factor) for core, factor in zip(cores, factors, strict=True)]
