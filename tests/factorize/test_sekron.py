"""SeKron: the exact error of its recursive SVD, GKPD as its case of two factors, and its refinement."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kronexport.errors import UserInputError
from kronexport.factorize.gkpd import gkpd, gkpd_structure
from kronexport.factorize.network import relative_error
from kronexport.factorize.sekron import recursive_svd, sekron, sekron_max_ranks, sekron_structure
from kronexport.factorize.tensor import Size4, rearrange
from kronexport.records import Structure

SIZES: dict[int, list[Size4]] = {
    2: [(4, 3, 3, 1), (2, 2, 1, 3)],
    3: [(4, 3, 1, 1), (2, 1, 3, 1), (1, 2, 1, 3)],
    4: [(2, 3, 1, 1), (2, 1, 3, 1), (1, 2, 1, 3), (2, 1, 1, 1)],
}
"""Factors of a weight [8, 6, 3, 3]."""


@st.composite
def sekron_structures(draw: st.DrawFn) -> Structure:
    sizes = SIZES[draw(st.sampled_from(sorted(SIZES)))]
    most = sekron_max_ranks(sekron_structure(sizes, (1,) * (len(sizes) - 1)))
    return sekron_structure(sizes, [draw(st.integers(1, limit)) for limit in most.values()])


def cut_off(remainder: NDArray[np.float64], ranks: tuple[int, ...]) -> float:
    """The paper's triple sum: squared singular values cut off at this level and, per kept term, at the levels below."""
    if not ranks:
        return 0.0
    _, values, right = np.linalg.svd(remainder.reshape(len(remainder), -1), full_matrices=False)
    below = sum(cut_off((s * v).reshape(remainder.shape[1:]), ranks[1:]) for s, v in zip(values, right, strict=True))
    kept = sum(
        cut_off((values[r] * right[r]).reshape(remainder.shape[1:]), ranks[1:]) for r in range(ranks[0], len(values))
    )
    return float(np.sum(values[ranks[0] :] ** 2) + below - kept)


@settings(max_examples=40, deadline=None)
@given(sekron_structures(), st.integers(0, 2**32 - 1))
def test_the_error_is_exactly_what_is_cut_off(structure: Structure, seed: int) -> None:
    """||W - W^||^2 = sum_k sum_p sum over r > R_k of s_r(M_p)^2, for two, three and four factors."""
    weight = np.random.default_rng(seed).standard_normal((8, 6, 3, 3))
    squared_error = np.sum((weight - recursive_svd(weight, structure).to_dense()) ** 2)
    predicted = cut_off(rearrange(weight, structure), structure.ranks)
    assert squared_error == pytest.approx(predicted, rel=1e-9, abs=1e-20 * float(np.sum(weight**2)) + 1e-20)


@settings(max_examples=20, deadline=None)
@given(sekron_structures(), st.integers(0, 2**32 - 1))
def test_refinement_only_lowers_the_error(structure: Structure, seed: int) -> None:
    """At any ranks."""
    weight = np.random.default_rng(seed).standard_normal((8, 6, 3, 3))
    greedy = relative_error(weight, recursive_svd(weight, structure).to_dense())
    assert relative_error(weight, sekron(weight, structure).to_dense()) <= greedy


def test_two_factors_are_gkpd() -> None:
    """The same factors, not only the same weight."""
    weight = np.random.default_rng(0).standard_normal((8, 6, 3, 3)).astype(np.float32)
    ours = sekron(weight, sekron_structure(SIZES[2], (4,)))
    theirs = gkpd(weight, gkpd_structure(SIZES[2][0], SIZES[2][1], 4))
    for factor, same in zip(ours.factors, theirs.factors, strict=True):
        np.testing.assert_array_equal(factor, same)


def test_to_dense_is_the_papers_nested_sum() -> None:
    """sum_r1 A1[r1] (x) sum_r2 A2[r1 r2] (x) A3[r1 r2], with numpy.kron."""
    structure = sekron_structure(SIZES[3], (2, 3))
    network = sekron(np.random.default_rng(0).standard_normal((8, 6, 3, 3)), structure)
    first, second, third = network.factors
    nested = sum(np.kron(first[r], sum(np.kron(second[r, q], third[r, q]) for q in range(3))) for r in range(2))
    np.testing.assert_allclose(network.to_dense(), nested, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", sorted(SIZES))
def test_at_the_highest_ranks_it_is_exact_and_above_them_refused(count: int) -> None:
    """The error says which rank of which axis is too high."""
    weight = np.random.default_rng(0).standard_normal((8, 6, 3, 3))
    most = list(sekron_max_ranks(sekron_structure(SIZES[count], (1,) * (count - 1))).values())
    assert relative_error(weight, sekron(weight, sekron_structure(SIZES[count], most)).to_dense()) <= 1e-12
    most[-1] += 1
    axis = "abc"[count - 2]
    with pytest.raises(UserInputError, match=rf"rank {most[-1]} of axis '{axis}' .* at most {most[-1] - 1} can"):
        sekron(weight, sekron_structure(SIZES[count], most))


def test_params_follow_the_papers_formula() -> None:
    """sum_k (product of the ranks up to min(k, S - 1)) |A_k|."""
    structure = sekron_structure(SIZES[4], (2, 3, 4))
    ranks = [2, 2 * 3, 2 * 3 * 4, 2 * 3 * 4]
    assert structure.params == sum(r * math.prod(size) for r, size in zip(ranks, SIZES[4], strict=True))


def test_where_least_squares_is_not_feasible_the_svd_stands() -> None:
    """65 x 65 rank combinations are too many for the normal equations; the factors are those of the recursive SVD."""
    structure = sekron_structure([(65, 1, 1, 1), (1, 65, 1, 1), (2, 65, 1, 1)], (65, 65))
    weight = np.random.default_rng(0).standard_normal(structure.weight_shape).astype(np.float32)
    for factor, same in zip(sekron(weight, structure).factors, recursive_svd(weight, structure).factors, strict=True):
        np.testing.assert_array_equal(factor, same)
