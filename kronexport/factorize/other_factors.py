"""All factors of a Kronecker network but one, as the map between that one and the whole weight.

    W[(f g), (d m)] = sum over r of X[f, d, r] T[r, g, m]

X holds the one factor (f: its filters, d: its columns, r: its rank axes), T all others (g, m: theirs). T is large
where rank axes are many: 4,096 x 12,288 in the middle of a tensor train of a 64-channel 3x3 conv. So it is not written
out, but contracted factor by factor; torch.einsum finds the order of the products by opt_einsum.
"""

import math
import string
from collections.abc import Sequence

import torch
from torch import Tensor

from kronexport.records import Structure

_RANKS_LIMIT = 1000
"""Sets of rank indices of one factor above which Q is taken for a Kronecker product over the rank axes."""


class OtherFactors:
    """All factors but ``k``, as T[r, g, m] that is not written out unless it is asked for.

    In the equations the rank axes keep their letters, another set of them is moved by half the alphabet, the modes of
    the others are capitals, and y and z are the filters and columns of factor k.
    """

    def __init__(self, structure: Structure, k: int) -> None:
        letters = iter(string.ascii_uppercase)
        others = [factor for index, factor in enumerate(structure.factors) if index != k]
        modes = ["".join(next(letters) for _ in range(4)) for _ in others]
        self._ranks = structure.factors[k].rank_axes
        self._sizes = structure.factor_shape(k)[:-4]
        free = [axis for axis in self._ranks if all(axis not in factor.rank_axes for factor in others)]
        self._ones = [torch.ones(structure.rank_sizes[axis]) for axis in free]
        self._filters, self._columns = "".join(mode[0] for mode in modes), "".join(mode[1:] for mode in modes)
        self._filter_sizes = [factor.f for factor in others]
        self._column_sizes = [size for factor in others for size in factor.size[1:]]
        self.are_apart = all(
            set(factor.rank_axes) <= set(self._ranks) and (factor.f == 1 or factor.size[1:] == (1, 1, 1))
            for factor in others
        )
        """Whether T[r, g, m] = P[r, g] Q[r, m]: each factor has filters or columns, and no rank axis is summed."""
        self._operands = [*(factor.rank_axes + mode for factor, mode in zip(others, modes, strict=True)), *free]

    def contracted(self, others: Sequence[Tensor]) -> Tensor:
        """T [r, g, m]."""
        whole = self._einsum(self._operands, self._ranks + self._filters + self._columns, self._all(others))
        return whole.reshape(math.prod(self._sizes), math.prod(self._filter_sizes), -1)

    def apart(self, others: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """P [r, g] and Q [r, m], where the factors ``are_apart``."""
        ranks = [torch.ones(size, dtype=others[0].dtype) for size in self._sizes]
        found = []
        for has_filters in (True, False):
            picked = [index for index, one in enumerate(others) if (one.shape[-4] > 1) is has_filters]
            operands = [self._operands[index] for index in picked]
            modes = "".join(operand[-4] if has_filters else operand[-3:] for operand in operands)
            given = [*(others[index] for index in picked), *ranks]
            whole = self._einsum([*operands, *self._ranks], self._ranks + modes, given)
            found.append(whole.reshape(math.prod(self._sizes), -1))
        return found[0], found[1]

    def weight(self, x: Tensor, others: Sequence[Tensor]) -> Tensor:
        """X [f, d, r] -> W [f, g, d, m]."""
        split = x.reshape(*x.shape[:2], *self._sizes)
        return self._einsum(
            [f"yz{self._ranks}", *self._operands],
            f"y{self._filters}z{self._columns}",
            [split, *self._all(others)],
        )

    def adjoint(self, rows: Tensor, others: Sequence[Tensor]) -> Tensor:
        """W [f, g, d, m] -> X [f, d, r]."""
        filters, _, columns, _ = rows.shape
        split = rows.reshape(filters, *self._filter_sizes, columns, *self._column_sizes)
        found = self._einsum(
            [f"y{self._filters}z{self._columns}", *self._operands],
            f"yz{self._ranks}",
            [split, *self._all(others)],
        )
        return found.reshape(filters, columns, -1)

    def rank_grams(self, others: Sequence[Tensor], filters: Tensor) -> list[Tensor]:
        """Q [r, r] = sum over g m of v_g T T; of many ranks its partial traces, one a rank axis, scaled to Q's trace.

        Their Kronecker product is Q itself where the axes lead to different factors: a Tucker core, the middle of a TT.

        Args:
            others: the factors.
            filters: v [g].
        """
        size = math.prod(self._sizes)
        if size <= _RANKS_LIMIT:
            return [self._rank_gram(self._ranks, others, filters).reshape(size, size)]
        first, *later = [self._rank_gram(axis, others, filters) for axis in self._ranks]
        return [first, *(gram / gram.trace() for gram in later)]

    def _rank_gram(self, axes: str, others: Sequence[Tensor], filters: Tensor) -> Tensor:
        """Q summed over equal indices of all rank axes of factor k but ``axes``."""
        tied = set(self._ranks) - set(axes)
        moved = {ord(axis): ord(axis) + 13 for axis in string.ascii_lowercase[:13] if axis not in tied}
        operands = [*self._operands, *(operand.translate(moved) for operand in self._operands), self._filters]
        given = [*self._all(others), *self._all(others), filters.reshape(self._filter_sizes)]
        return self._einsum(operands, axes + axes.translate(moved), given)

    def _all(self, others: Sequence[Tensor]) -> list[Tensor]:
        return [*others, *(ones.to(others[0].dtype) for ones in self._ones)]

    @staticmethod
    def _einsum(operands: Sequence[str], result: str, given: Sequence[Tensor]) -> Tensor:
        return torch.einsum(f"{','.join(operands)}->{result}", *given)
