"""Merging: parts of a network's factors multiplied into one factor each before it is lowered (docs/lowering.md).

What comes of a part is again a factor, since f, c, h and w multiply and only rank axes of other factors stay:

    A_P[rank axes that factors outside P have, f, c, i, j] = sum over all others of  prod over k in P of A_k
    f = (f_p F_q + f_q) F_r + ...   over the members p < q < r of P (c, i and j alike)

The merged network stands for the same weight if its indices run as the network's do. So in each mode on its own the
parts, one after the other, must hold the factors in their order; those of size 1 in the mode do not count. Neighbours
can always be merged. The kernel modes are two of the four, and with them the dilations come out right.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from opt_einsum import contract

from kronexport.factorize.network import KroneckerNetwork, einsum_equation
from kronexport.lower.axes import sized_axes
from kronexport.records import FactorShape, Structure

Part = tuple[int, ...]
"""Indices (from 0) of the factors that become one, ascending."""
Partition = tuple[Part, ...]
"""Every factor in one part; the parts in the order of the merged network's factors."""
MOST_ORDERS: Final = 384
"""Of contraction over all partitions of one structure, the unmerged one left out."""


def unmerged(structure: Structure) -> Partition:
    """Each factor on its own."""
    return tuple((k,) for k in range(len(structure.factors)))


def label(part: Part) -> str:
    """The numbers of its factors from 1, one digit each: a network has at most six (``einsum_equation``)."""
    return "".join(str(k + 1) for k in part)


@lru_cache(maxsize=4096)
def partitions(structure: Structure, group: int) -> tuple[Partition, ...]:
    """The unmerged network, then the ways to merge it into two or more factors that are worth a lowering.

    Those of fewest parts come first, and one more number of parts is taken as long as there are at most
    ``MOST_ORDERS`` orders of contraction in all. docs/lowering.md has the rules by which partitions are left out.
    Ranks above 1 make no difference.
    """
    kept, orders = [unmerged(structure)], 0
    for number in range(2, len(structure.factors)):  # all in one is the form dense
        merges = _merges(structure, group, number)
        orders += len(merges) * math.factorial(number)
        if orders > MOST_ORDERS:
            break
        kept += merges
    return tuple(kept)


@lru_cache(maxsize=4096)
def merged_structure(structure: Structure, partition: Partition) -> Structure:
    """One factor a part. Rank axes that no other part has are gone, those of a factor on its own too."""
    letters = [set("".join(structure.factors[k].rank_axes for k in part)) for part in partition]
    factors = []
    for index, part in enumerate(partition):
        others = set().union(*letters[:index], *letters[index + 1 :])
        f, c, h, w = (math.prod(sizes) for sizes in zip(*(structure.factors[k].size for k in part), strict=True))
        factors.append(FactorShape("".join(sorted(letters[index] & others)), f, c, h, w))
    return _of_factors(structure, tuple(factors))


def merged_network(network: KroneckerNetwork, partition: Partition) -> KroneckerNetwork:
    """The network with each part multiplied into one factor, in float64; its ``to_dense`` is the same.

    Args:
        network: factors of any float type.
        partition: one of ``partitions(network.structure, group)``.
    """
    structure = merged_structure(network.structure, partition)
    return KroneckerNetwork(
        structure,
        tuple(
            _product(network, part, factor.rank_axes).reshape(structure.factor_shape(index))
            for index, (part, factor) in enumerate(zip(partition, structure.factors, strict=True))
        ),
    )


def _merges(structure: Structure, group: int, number: int) -> list[Partition]:
    """The partitions into ``number`` parts; of those that come to the same factors the first."""
    found: dict[tuple[FactorShape, ...], Partition] = {}
    united = [parts for parts in _set_partitions(unmerged(structure)) if len(parts) == number]
    for parts in sorted(united):
        # the first order has the part of factor 1, which says which group a filter is of, in front if any has
        partition = next((order for order in itertools.permutations(parts) if _keeps_index(structure, order)), None)
        if partition is None:
            continue
        merged = merged_structure(structure, partition)
        if merged.factors[0].f % group == 0 and not _has_scaling_part(merged, group):
            found.setdefault(merged.factors, partition)
    return list(found.values())


def _product(network: KroneckerNetwork, part: Part, kept: str) -> NDArray[Any]:
    """The members of a part multiplied; rank axes that are not ``kept`` are summed away."""
    members = _of_factors(network.structure, tuple(network.structure.factors[k] for k in part))
    operands = [network.factors[k].astype(np.float64) for k in part]
    return np.asarray(contract(einsum_equation(members, kept), *operands))


def _of_factors(structure: Structure, factors: tuple[FactorShape, ...]) -> Structure:
    """The structure with other factors, whose rank axes have the sizes that they have in it."""
    letters = sorted(set("".join(factor.rank_axes for factor in factors)))
    sizes = structure.rank_sizes
    return replace(structure, ranks=tuple(sizes[letter] for letter in letters), factors=factors)


def _keeps_index(structure: Structure, partition: Partition) -> bool:
    """Whether the parts one after the other hold the factors in their order, in each mode those wider than 1."""
    sequence = list(itertools.chain.from_iterable(partition))
    for mode in range(4):
        wide = [k for k in sequence if structure.factors[k].size[mode] > 1]
        if wide != sorted(wide):
            return False
    return True


def _has_scaling_part(merged: Structure, group: int) -> bool:
    """Whether some part has no f, c, h or w, and only rank axes that one other part has too.

    Its Conv would do nothing but scale what the other makes or reads. Merged into that, the network has a Conv less
    and no axis more at any other, so that partition, or the form ``dense``, is better in every way.
    """
    axes = sized_axes(merged, group)
    return any(
        merged.factors[one].size[2:] == (1, 1) and axes[one] <= axes[other]
        for one, other in itertools.permutations(range(len(axes)), 2)
    )


def _set_partitions(parts: Partition) -> Iterator[Partition]:
    """All ways to unite ``parts``, members and parts ascending."""
    if not parts:
        yield ()
        return
    first = parts[0]
    for rest in _set_partitions(parts[1:]):
        yield (first, *rest)
        for index, part in enumerate(rest):
            yield ((*first, *part), *rest[:index], *rest[index + 1 :])
