"""Alternating least squares: the factors of any Kronecker network, fitted to what a layer outputs.

    minimize  E(W^) = sum over f of  w_f (W^_f S W^_f^T - 2 W^_f G_f^T + e_f)         W^ the network's weight [F, D]

W^ is linear in each factor. With the others contracted to T[r, g, m] (r: rank axes of factor k; g and m: filters and
columns of the others), factor k holds X[f, d, r] with W^[(f g), (d m)] = sum over r of X[f, d, r] T[r, g, m], and

    sum over d' r' of  N_f[(d r), (d' r')] X[f, d', r'] = sum over g m of  w_fg T[r, g, m] G[(f g), (d m)]
    N_f = sum over g m m' of  w_fg T[r, g, m] S[(d m), (d' m')] T[r', g, m']

All N_f are multiples of one matrix when w_fg = u_f v_g and S is the same for all filters, as it is but in grouped
convs. That matrix, factorized once a step, solves then; for other weights it preconditions conjugate gradients on the
product W^ -> W^ S, which share it over all f. Where D_-k = 1 it is the Kronecker product of two small matrices, and of
a large one such a product is taken as an approximation.
Either way a step starts from the present factor and never raises E (Kolda and Bader, SIAM Review 2009, section 3.4, for
alternating least squares; Golub and Van Loan, section 11.5, for preconditioning).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from kronexport.factorize.network import KroneckerNetwork
from kronexport.factorize.other_factors import OtherFactors
from kronexport.records import Structure

MAX_SWEEPS = 60
_LEAST_SWEEPS = 2
_WORK_LIMIT = 2e11
"""Multiplications of all sweeps together, beyond which there are fewer: later sweeps gain little."""
TOLERANCE = 1e-3
"""What a sweep must gain, where the caller does not say."""
_CG_STEPS = 10
_CG_TOLERANCE = 1e-6
"""Of the squared residual, in the preconditioner's norm."""
_DIRECT_LIMITS = 1600, 6000
"""Unknowns of one N_f up to which it is always written out, and above which never: 144 MB."""
_ROUNDING = 100
"""Units in the last place of the outputs' energy below which an error is none."""

_Linear = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class OutputError:
    """E of the module's docstring: ``gram`` = S [groups, D, D], ``cross`` = G [F, D], ``energy`` = e, ``rows`` = w [F].

    S should be definite, as a ridge makes it (``fitting.py``): a singular one leaves factors undetermined.
    """

    gram: Tensor
    cross: Tensor
    energy: Tensor
    rows: Tensor

    def __call__(self, weight: Tensor) -> float:
        """E of a weight [F, D]."""
        groups, size, _ = self.gram.shape
        seen = (weight.reshape(groups, -1, size) @ self.gram).reshape(weight.shape)
        return float(self.rows @ ((weight * (seen - 2 * self.cross)).sum(dim=1) + self.energy))


def dense_rows(network: KroneckerNetwork, dtype: torch.dtype) -> Tensor:
    """The network's weight as [F, D]."""
    factors = tuple(factor.astype(np.float64) for factor in network.factors)
    weight = KroneckerNetwork(network.structure, factors).to_dense()
    return torch.from_numpy(weight.reshape(len(weight), -1)).to(dtype)


def alternate(start: KroneckerNetwork, error: OutputError, tolerance: float = TOLERANCE) -> KroneckerNetwork:
    """``start`` with its factors improved in turn until a sweep gains little; E is never above that of ``start``.

    Args:
        start: structure and first values.
        error: what to minimize.
        tolerance: a sweep that lowers the error by less than this part of it is the last one.

    Returns:
        A network of the same structure and dtype, its factors of equal norm.
    """
    dtype = error.gram.dtype
    first = least = error(dense_rows(start, dtype))
    factors = best = [torch.from_numpy(factor).to(dtype) for factor in start.factors]
    frames = [_Frame(start.structure, k, error) for k in range(len(factors))]
    rounding = _ROUNDING * torch.finfo(dtype).eps * float(error.rows @ error.energy)
    most = _WORK_LIMIT / sum(frame.work for frame in frames)
    for _ in range(int(min(MAX_SWEEPS, max(_LEAST_SWEEPS, most)))):
        if least <= rounding:
            break
        reached = least
        for frame in frames:
            factors[frame.k], reached = frame.solve(factors)
        factors = _balanced(factors)
        if not reached < least:
            break
        gain, best, least = least - reached, list(factors), reached
        if gain <= tolerance * least:
            break
    values = (factor.numpy().astype(old.dtype) for factor, old in zip(best, start.factors, strict=True))
    network = KroneckerNetwork(start.structure, tuple(values))
    # what the sweeps say of the error is good to rounding only
    return network if error(dense_rows(network, dtype)) < first else start


def _balanced(factors: list[Tensor]) -> list[Tensor]:
    """The same product with factors of equal norm; as they are if one of them is zero."""
    norms = [float(factor.norm()) for factor in factors]
    if min(norms) == 0:
        return factors
    mean = math.exp(sum(map(math.log, norms)) / len(norms))
    return [factor * (mean / norm) for factor, norm in zip(factors, norms, strict=True)]


class _Frame:
    """The least squares problem of factor ``k``, everything permuted to [(f g), (d m)]."""

    def __init__(self, structure: Structure, k: int, error: OutputError) -> None:
        self.k = k
        self._shape = structure.factor_shape(k)
        self._others = OtherFactors(structure, k)
        mine, all_sizes = structure.factors[k], [factor.size for factor in structure.factors]
        filters, columns = _order(all_sizes, k)
        self._f, self._d = mine.f, mine.c * mine.h * mine.w
        self._g, self._m = len(filters) // self._f, len(columns) // self._d
        self._r = math.prod(structure.factor_shape(k)[:-4])
        grams = [gram[columns][:, columns] for gram in error.gram]
        group = filters // (len(filters) // len(grams))
        self._groups = [(torch.nonzero(group == index).flatten(), gram) for index, gram in enumerate(grams)]
        self._gram = grams[0] if len(grams) == 1 else torch.stack(grams).mean(dim=0)
        self._rows = error.rows[filters]
        self._wanted = self._rows[:, None] * error.cross[filters][:, columns]
        self._energy = float(error.rows @ error.energy)
        weights = self._rows.reshape(self._f, self._g)
        # w_fg = u_f v_g where the weights are such a product; else its best guess by the sums
        self._u = weights.sum(dim=1).clamp_min(float(weights.sum()) * torch.finfo(weights.dtype).eps)
        self._v = weights.sum(dim=0) / weights.sum()
        product = self._u[:, None] * self._v
        apart = float((product - weights).abs().max())
        self._shared = len(grams) == 1 and apart <= _ROUNDING * torch.finfo(weights.dtype).eps * float(product.max())

    def solve(self, factors: list[Tensor]) -> tuple[Tensor, float]:
        """Factor ``k`` that minimizes E with the others as they are, in its own shape, and E with it."""
        others = [factor for index, factor in enumerate(factors) if index != self.k]
        if not all(other.any() for other in others) or not self._gram.diagonal().any():
            return factors[self.k], self._energy
        present = factors[self.k].reshape(self._r, self._f, self._d).permute(1, 2, 0)
        normal, precondition = self._operators(others)
        if not self._shared or normal is None:
            normal = partial(self._normal, others=others)
        wanted = self._adjoint(self._wanted, others)
        solved, residual = _conjugate_gradients(present, wanted, normal, precondition)
        reached = self._energy - float(torch.sum(solved * (wanted + residual)))
        return solved.permute(2, 0, 1).reshape(self._shape), reached

    def _normal(self, x: Tensor, others: Sequence[Tensor]) -> Tensor:
        """[f, d, r] -> N x, by way of the weight that x stands for."""
        rows = self._others.weight(x, others).reshape(self._f * self._g, -1)
        seen = torch.empty_like(rows)
        for group, gram in self._groups:
            seen[group] = rows[group] @ gram
        return self._adjoint(self._rows[:, None] * seen, others)

    def _adjoint(self, rows: Tensor, others: Sequence[Tensor]) -> Tensor:
        """[(f g), (d m)] -> [f, d, r]."""
        return self._others.adjoint(rows.reshape(self._f, self._g, self._d, self._m), others)

    def _operators(self, others: Sequence[Tensor]) -> tuple[_Linear | None, _Linear]:
        """u_f N x, N made by v, and what solves with it; None: the second only solves with something near it."""
        scale = self._u[:, None, None]
        if self._m > 1 and self._writes_out():
            whole = self._normal_matrix(others)
            lower = _cholesky(whole)
            return (
                lambda x: scale * (x.reshape(self._f, -1) @ whole).reshape(x.shape),
                lambda x: torch.cholesky_solve(x.reshape(self._f, -1).T, lower).T.reshape(x.shape) / scale,
            )
        blocks = self._gram.reshape(self._d, self._m, self._d, self._m).diagonal(dim1=1, dim2=3)
        left, rights = blocks.mean(dim=2), self._others.rank_grams(others, self._v)
        lowers = [_cholesky(matrix) for matrix in (left, *rights)]
        exact = self._m == 1 and len(rights) == 1
        return (
            (lambda x: scale * (left @ x @ rights[0])) if exact else None,
            lambda x: _kronecker_solve(x, lowers) / scale,
        )

    @property
    def work(self) -> float:
        """Multiplications of one ``solve``, about."""
        if self._m == 1:
            return float(self._f * self._g * self._d * (self._d + self._r))
        return self._written_cost if self._writes_out() else self._by_weight_cost

    def _writes_out(self) -> bool:
        """Whether N as a matrix is small, or cheaper than products by way of the weight, by their multiplications."""
        always, most = _DIRECT_LIMITS
        unknowns = self._d * self._r
        return unknowns <= always or (unknowns <= most and self._written_cost < self._by_weight_cost)

    @property
    def _written_cost(self) -> float:
        """Multiplications to write N out, to factorize it and to solve with it."""
        unknowns = self._d * self._r
        return min(self._pairs_cost, self._filters_cost) + unknowns**3 / 3 + 5 * unknowns**2 * self._f

    @property
    def _by_weight_cost(self) -> float:
        """Multiplications of conjugate gradients by way of the weight."""
        filters, columns = self._f * self._g, self._d * self._m
        return float(_CG_STEPS * filters * columns * (columns + 2 * self._r))

    @property
    def _pairs_cost(self) -> int:
        """Multiplications to sum N over pairs of (r, m) first."""
        r, g, m, d = self._r, self._g, self._m, self._d
        return (r * m) ** 2 * (g + d * d)

    @property
    def _filters_cost(self) -> int:
        """Multiplications to sum N filter by filter, or at once where filters and columns are apart."""
        r, m, d = self._r, self._m, self._d
        return (1 if self._others.are_apart else self._g) * (d * m) * (d * r) * (m + r)

    def _normal_matrix(self, others: Sequence[Tensor]) -> Tensor:
        """N [(d r), (d' r')] = sum over g of v_g T_g S T_g^T, in the cheapest order of summation.

        Where T[r, g, m] = P[r, g] Q[r, m] it is Q S Q^T times, entry by entry, the sum over g of v_g P_g P_g^T.
        """
        r, g, m, d = self._r, self._g, self._m, self._d
        gram = self._gram.reshape(d, m, d, m)
        if self._others.are_apart:
            filters, columns = self._others.apart(others)
            tied = (filters * self._v) @ filters.T
            right = (gram.reshape(-1, m) @ columns.T).reshape(d, m, d * r)
            return ((columns @ right).reshape(d, r, d, r) * tied[:, None]).reshape(d * r, d * r)
        weighted = self._others.contracted(others) * self._v.sqrt()[None, :, None]
        if self._pairs_cost <= self._filters_cost:
            sides = weighted.transpose(1, 2).reshape(r * m, g)
            pairs = (sides @ sides.T).reshape(r, m, r, m).transpose(1, 2).reshape(r * r, m * m)
            normal = (pairs @ gram.permute(1, 3, 0, 2).reshape(m * m, d * d)).reshape(r, r, d, d)
            return normal.permute(2, 0, 3, 1).reshape(d * r, d * r)
        normal = torch.zeros(d, r, d * r, dtype=gram.dtype)
        for one in weighted.unbind(dim=1):
            right = (gram.reshape(-1, m) @ one.T).reshape(d, m, d * r)
            normal += one @ right
        return normal.reshape(d * r, d * r)


def _order(sizes: list[tuple[int, int, int, int]], k: int) -> tuple[Tensor, Tensor]:
    """The filters in the order (f, g) and the columns in the order (d, m) of factor ``k``."""
    count = len(sizes)
    order = [k, *(index for index in range(count) if index != k)]
    filters = torch.arange(math.prod(size[0] for size in sizes)).reshape([size[0] for size in sizes])
    split = [size[axis] for axis in (1, 2, 3) for size in sizes]
    columns = torch.arange(math.prod(split)).reshape(split)
    axes = [mode * count + index for index in order for mode in range(3)]
    return filters.permute(order).flatten(), columns.permute(axes).flatten()


def _kronecker_solve(x: Tensor, lowers: Sequence[Tensor]) -> Tensor:
    """[f, ...] -> the product of (lower lower^T)^-1 over all axes but f, applied to x."""
    solved = x.reshape(len(x), *(len(lower) for lower in lowers))
    for axis, lower in enumerate(lowers, 1):
        front = solved.movedim(axis, 0)
        solved = torch.cholesky_solve(front.reshape(len(lower), -1), lower).reshape(front.shape).movedim(0, axis)
    return solved.reshape(x.shape)


def _cholesky(matrix: Tensor) -> Tensor:
    """The factor of ``matrix`` with so little added to its diagonal that only singular directions notice.

    In float32 rounding can leave a singular matrix of a thousand rows indefinite by more: then four times as much is
    added until it is not.

    Raises:
        RuntimeError: as much as the mean of the diagonal is not enough, which rounding does not explain.
    """
    mean = float(matrix.diagonal().mean())
    share = math.sqrt(torch.finfo(matrix.dtype).eps)
    while True:
        raised = matrix.clone()
        raised.diagonal().add_(share * mean)
        factor, failed = torch.linalg.cholesky_ex(raised, check_errors=share >= 1)
        if not failed:
            lower: Tensor = factor
            return lower
        share *= 4


def _conjugate_gradients(x: Tensor, wanted: Tensor, normal: _Linear, precondition: _Linear) -> tuple[Tensor, Tensor]:
    """Improve x towards N x = wanted, and what then is left of wanted - N x; one step where the preconditioner is N^-1.

    Ends where what is left to gain is rounding, which a singular N would otherwise blow up.
    """
    residual = wanted - normal(x)
    direction = precondition(residual)
    size = float(torch.sum(residual * direction))
    rounding = torch.finfo(x.dtype).eps * float(torch.sum(wanted * precondition(wanted)))
    enough = max(_CG_TOLERANCE * size, rounding)
    for _ in range(_CG_STEPS):
        if size <= enough:
            break
        image = normal(direction)
        curvature = float(torch.sum(direction * image))
        if curvature <= 0:
            break
        x = x + size / curvature * direction
        residual = residual - size / curvature * image
        solved = precondition(residual)
        before, size = size, float(torch.sum(residual * solved))
        direction = solved + size / before * direction
    return x, residual
