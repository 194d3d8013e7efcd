"""A Kronecker network: factors whose contraction is the weight of a convolution (docs/operator.md).

    W[f, c, i, j] = sum over all rank axes of  prod_k A_k[its rank axes, f_k, c_k, i_k, j_k]
    f = (f_1 F_2 + f_2) F_3 + ...   (the first factor is the slowest index; c, i and j alike)

GKPD (Hameed et al., AAAI 2022) is two factors that share one rank axis; SeKron (arXiv 2210.06299), CP, Tucker,
TT and TR are other choices of rank axes. ``to_dense`` is the only definition of truth: everything else in the
project is tested against it.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opt_einsum import contract

from kronexport.errors import UserInputError
from kronexport.records import Structure

_MODE_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Four a factor (f, c, h, w); rank axes are lower-case, so the two never meet."""


def einsum_equation(structure: Structure, kept: str = "") -> str:
    """The contraction of the factors as an einsum over ``[kept, f_1, f_2, ..., c_1, ..., h_1, ..., w_1, ...]``.

    The result reshapes to [F, C, kh, kw], behind the rank axes ``kept`` that are not summed over; numpy, torch and
    ONNX Einsum all read it.

    Raises:
        UserInputError: more factors than there are letters (six).
    """
    count = len(structure.factors)
    if 4 * count > len(_MODE_LETTERS):
        raise UserInputError(f"Kronecker network: {count} factors, at most {len(_MODE_LETTERS) // 4} are supported")
    modes = [_MODE_LETTERS[4 * k : 4 * k + 4] for k in range(count)]
    operands = [factor.rank_axes + mode for factor, mode in zip(structure.factors, modes, strict=True)]
    output = "".join(mode[axis] for axis in range(4) for mode in modes)
    return f"{','.join(operands)}->{kept}{output}"


def check_structure(structure: Structure) -> None:
    """Raise UserInputError unless the structure is one that the operator allows."""
    if len(structure.factors) < 2:  # noqa: PLR2004  a product needs two
        raise UserInputError(f"Kronecker network: {len(structure.factors)} factor(s), expected at least 2")
    letters = set("".join(factor.rank_axes for factor in structure.factors))
    if not all(letter.islower() and letter.isascii() for letter in letters):
        raise UserInputError(f"Kronecker network: rank axes {sorted(letters)}, expected lower-case letters a to z")
    if len(letters) != len(structure.ranks):
        raise UserInputError(
            f"Kronecker network: {len(structure.ranks)} ranks {structure.ranks} for {len(letters)} rank axes "
            f"{''.join(sorted(letters))!r}; give one rank an axis, in alphabetical order"
        )
    for index, factor in enumerate(structure.factors, 1):
        if len(set(factor.rank_axes)) != len(factor.rank_axes):
            raise UserInputError(f"Kronecker network: factor {index} names a rank axis twice: {factor.rank_axes!r}")
    if min((*structure.ranks, *(size for factor in structure.factors for size in factor.size))) < 1:
        raise UserInputError(f"Kronecker network: {structure} at ranks {structure.ranks}: every size must be >= 1")


def owns_groups(structure: Structure, group: int) -> bool:
    """Whether the first factor alone says which group an output channel is of: its f is a multiple of ``group``."""
    return structure.factors[0].f % group == 0


def check_group(structure: Structure, group: int, site: str) -> None:
    """Raise UserInputError unless the structure ``owns_groups`` (docs/decisions/0005)."""
    if not owns_groups(structure, group):
        raise UserInputError(
            f"{site}: {structure} for a conv of {group} groups: the first factor has "
            f"{structure.factors[0].f} filters, expected a multiple of {group}; choose a structure with one"
        )


@dataclass(frozen=True, slots=True, eq=False)
class KroneckerNetwork:
    """A structure with its values; ``factors[k]`` has ``structure.factor_shape(k)``.

    Raises:
        UserInputError: the structure is illegal, or a factor has another shape than the structure says.
    """

    structure: Structure
    factors: tuple[NDArray[Any], ...]

    def __post_init__(self) -> None:
        check_structure(self.structure)
        if len(self.factors) != len(self.structure.factors):
            raise UserInputError(
                f"Kronecker network: {len(self.factors)} arrays for {len(self.structure.factors)} factors"
            )
        for index, factor in enumerate(self.factors):
            expected = self.structure.factor_shape(index)
            if factor.shape != expected:
                raise UserInputError(
                    f"Kronecker network: factor {index + 1} has shape {factor.shape}, the structure "
                    f"{self.structure} at ranks {self.structure.ranks} expects {expected}"
                )

    def to_dense(self) -> NDArray[Any]:
        """The weight [F, C, kh, kw] that the network stands for."""
        # not numpy's einsum: it makes nothing larger than its result, and CP of a high rank by one plain loop instead
        product = contract(einsum_equation(self.structure), *self.factors)
        return np.asarray(product).reshape(self.structure.weight_shape)


def relative_error(weight: NDArray[Any], approximation: NDArray[Any]) -> float:
    """||W - W^|| / ||W|| in float64; 0 where both are zero, infinite where only W is."""
    reference = weight.astype(np.float64)
    norm = float(np.linalg.norm(reference))
    distance = float(np.linalg.norm(reference - approximation))
    if norm == 0:
        return 0.0 if distance == 0 else math.inf
    return distance / norm
