"""The definition of a Kronecker network against a literal sum, and its validation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronexport.errors import UserInputError
from kronexport.factorize.network import KroneckerNetwork, relative_error
from kronexport.records import FactorShape, Structure
from tests.strategies import random_network, structures


@settings(max_examples=60, deadline=None)
@given(structures(channels=3, rank=2), st.integers(0, 2**32 - 1))
def test_to_dense_is_the_sum_of_products(structure: Structure, seed: int) -> None:
    """One random entry of W equals the operator's formula, written out with loops over the rank axes."""
    network = random_network(structure, seed)
    dense = network.to_dense()
    index = tuple(int(i) for i in np.random.default_rng(seed).integers(0, structure.weight_shape))
    digits = [_mixed_radix(index[mode], [factor.size[mode] for factor in structure.factors]) for mode in range(4)]
    total = 0.0
    for values in itertools.product(*(range(size) for size in structure.ranks)):
        rank_of = dict(zip(sorted(structure.rank_sizes), values, strict=True))
        total += math.prod(
            float(factor[(*(rank_of[a] for a in shape.rank_axes), *(digits[mode][k] for mode in range(4)))])
            for k, (factor, shape) in enumerate(zip(network.factors, structure.factors, strict=True))
        )
    assert dense.shape == structure.weight_shape
    assert dense[index] == pytest.approx(total, rel=1e-5, abs=1e-5)


def _mixed_radix(number: int, sizes: list[int]) -> list[int]:
    """Digits of ``number``, the first the slowest."""
    digits = []
    for size in reversed(sizes):
        number, digit = divmod(number, size)
        digits.append(digit)
    return digits[::-1]


def test_two_factors_of_rank_one_are_the_kronecker_product() -> None:
    """Channels and kernel alike: W = A (x) B as numpy.kron defines it."""
    structure = Structure("gkpd", (1,), (FactorShape("a", 2, 3, 3, 1), FactorShape("a", 4, 5, 1, 3)))
    network = random_network(structure, 0)
    np.testing.assert_allclose(network.to_dense(), np.kron(network.factors[0][0], network.factors[1][0]), rtol=1e-6)


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (Structure("gkpd", (1,), (FactorShape("a", 2, 2, 1, 1),)), r"1 factor\(s\), expected at least 2"),
        (Structure("gkpd", (1, 2), (FactorShape("a", 1, 1, 1, 1),) * 2), "2 ranks .* for 1 rank axes 'a'"),
        (Structure("gkpd", (1,), (FactorShape("aa", 1, 1, 1, 1),) * 2), "names a rank axis twice"),
        (Structure("gkpd", (0,), (FactorShape("a", 1, 1, 1, 1),) * 2), "every size must be >= 1"),
        (Structure("gkpd", (1,), (FactorShape("A", 1, 1, 1, 1),) * 2), "expected lower-case letters"),
    ],
)
def test_an_illegal_structure_is_refused(structure: Structure, message: str) -> None:
    """Each error says what came and what was expected."""
    with pytest.raises(UserInputError, match=message):
        KroneckerNetwork(structure, tuple(np.zeros(1) for _ in structure.factors))


def test_a_factor_of_the_wrong_shape_is_refused() -> None:
    """The error names the factor, its shape and the shape expected."""
    structure = Structure("gkpd", (2,), (FactorShape("a", 2, 3, 1, 1), FactorShape("a", 1, 1, 3, 3)))
    factors = np.zeros((2, 2, 3, 1, 1)), np.zeros((2, 1, 1, 3, 1))
    with pytest.raises(UserInputError, match=r"factor 2 has shape \(2, 1, 1, 3, 1\).*expects \(2, 1, 1, 3, 3\)"):
        KroneckerNetwork(structure, factors)


def test_relative_error_of_zero_weights() -> None:
    """Zero against zero is exact; anything else against zero is infinitely wrong."""
    zero, one = np.zeros((1, 1, 1, 1)), np.ones((1, 1, 1, 1))
    assert relative_error(zero, zero) == 0
    assert relative_error(zero, one) == math.inf
    assert relative_error(one, zero) == 1
