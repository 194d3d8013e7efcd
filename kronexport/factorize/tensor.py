"""The weight as a tensor with one axis a factor, on which every method is its textbook self.

Van Loan and Pitsianis' rearrangement, for any number of factors:

    T[n_1, ..., n_S] = W[f, c, i, j],    n_k = ((f_k C_k + c_k) K_k + i_k) L_k + j_k
    f = (f_1 F_2 + f_2) F_3 + ...        (c, i and j alike)

turns a Kronecker network into a plain tensor network whose core k is ``[its rank axes, n_k]``: CP, Tucker, TT, TR
and SeKron of W are those of T. Where each factor owns whole modes of W, T is W with its modes regrouped.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kronexport.errors import UserInputError
from kronexport.factorize.network import KroneckerNetwork, check_structure
from kronexport.records import FactorShape, Structure

Size4 = tuple[int, int, int, int]
"""f, c, h, w of a factor, or the shape [F, C, kh, kw] of a weight."""

Cores = list[NDArray[np.float64]]
"""One array a factor: its rank axes, then n_k."""


def build_structure(method: str, rank_axes: Sequence[str], sizes: Sequence[Size4], ranks: Iterable[int]) -> Structure:
    """The structure whose factor k has the axes ``rank_axes[k]`` and the size ``sizes[k]``.

    Raises:
        UserInputError: the method has another number of factors than there are sizes.
    """
    if len(sizes) != len(rank_axes):
        raise UserInputError(f"{method}: {len(sizes)} factor sizes, expected {len(rank_axes)}")
    factors = tuple(FactorShape(axes, *size) for axes, size in zip(rank_axes, sizes, strict=True))
    return Structure(method, tuple(ranks), factors)


def core_sizes(structure: Structure) -> tuple[int, ...]:
    """n_k of each factor: f_k c_k h_k w_k."""
    return tuple(math.prod(factor.size) for factor in structure.factors)


def rearrange(weight: NDArray[Any], structure: Structure) -> NDArray[Any]:
    """T of the module's docstring: [n_1, ..., n_S], in the weight's dtype.

    Raises:
        UserInputError: the factor sizes do not multiply to the weight's shape.
    """
    if structure.weight_shape != weight.shape:
        raise UserInputError(
            f"{structure.method}: {structure} makes a weight {structure.weight_shape}, the given one is "
            f"{weight.shape}; each factor size must divide the weight's size in its mode"
        )
    count = len(structure.factors)
    split = weight.reshape([factor.size[mode] for mode in range(4) for factor in structure.factors])
    return split.transpose([mode * count + k for k in range(count) for mode in range(4)]).reshape(core_sizes(structure))


def weight_tensor(weight: NDArray[Any], structure: Structure, rank_axes: Sequence[str]) -> NDArray[np.float64]:
    """T in float64, after all checks that the methods share.

    Args:
        weight: [F, C, kh, kw], floating point, finite.
        structure: what to factorize it into.
        rank_axes: what the factors of the structure must have for the method.

    Raises:
        UserInputError: the structure is illegal, has other rank axes or does not fit; the weight is not finite.
    """
    check_structure(structure)
    found = tuple(factor.rank_axes for factor in structure.factors)
    if found != tuple(rank_axes):
        raise UserInputError(
            f"{structure.method}: the factors have the rank axes {', '.join(found)}; {len(found)} factors of this "
            f"method have {', '.join(rank_axes)}"
        )
    check_values(weight, structure.method)
    return rearrange(weight.astype(np.float64), structure)


def check_values(weight: NDArray[Any], place: str) -> None:
    """Raise UserInputError, which begins with ``place``, if the weight is not floating point or not finite."""
    if not np.issubdtype(weight.dtype, np.floating):
        raise UserInputError(f"{place}: the weight is {weight.dtype}, expected floating point")
    if not np.isfinite(weight).all():
        raise UserInputError(f"{place}: the weight holds {np.sum(~np.isfinite(weight))} NaN or infinity")


def check_array(weight: object, place: str) -> None:
    """Raise UserInputError, which begins with ``place``, if the weight is no numpy array [F, C, kh, kw]."""
    if not isinstance(weight, np.ndarray):
        raise UserInputError(
            f"{place}: the weight is a {type(weight).__name__}, expected a numpy array; "
            "a tensor's is weight.detach().cpu().numpy()"
        )
    if weight.ndim != 4:  # noqa: PLR2004  F, C, kh, kw
        raise UserInputError(
            f"{place}: the weight is {weight.shape}, expected [F, C, kh, kw]; a linear layer's is [F, C, 1, 1]"
        )


def check_ranks(structure: Structure, most: Mapping[str, int]) -> None:
    """Raise UserInputError if a rank axis is longer than ``most`` says; beyond that nothing is gained."""
    for axis, rank in structure.rank_sizes.items():
        if rank > most[axis]:
            raise UserInputError(
                f"{structure.method}: rank {rank} of axis {axis!r} for {structure} at ranks {structure.ranks}, "
                f"at most {most[axis]} can be told apart"
            )


def cores_of(network: KroneckerNetwork) -> Cores:
    """The factors in float64 with f, c, h, w merged into n_k."""
    return [factor.astype(np.float64).reshape(*factor.shape[:-4], -1) for factor in network.factors]


def network_of(structure: Structure, cores: Sequence[NDArray[Any]], dtype: DTypeLike) -> KroneckerNetwork:
    """The network with these cores, each [its rank axes, n_k]; factors get ``dtype``."""
    return KroneckerNetwork(
        structure, tuple(core.reshape(structure.factor_shape(k)).astype(dtype) for k, core in enumerate(cores))
    )
