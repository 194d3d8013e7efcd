"""The rearranged weight against its formula, and the checks that all methods share."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronexport.errors import UserInputError
from kronexport.factorize.tensor import (
    build_structure,
    check_ranks,
    core_sizes,
    cores_of,
    network_of,
    rearrange,
    weight_tensor,
)
from kronexport.records import Structure
from tests.strategies import random_network, structures

PAIR = build_structure("gkpd", ("a", "a"), [(2, 3, 1, 1), (2, 1, 3, 3)], (2,))


@settings(max_examples=100, deadline=None)
@given(structures(channels=3, rank=2), st.integers(0, 2**32 - 1))
def test_rearranging_the_dense_weight_is_contracting_the_cores(structure: Structure, seed: int) -> None:
    """T of W is the network of the cores, one axis n_k a factor: what every method relies on."""
    network = random_network(structure, seed)
    letters = "UVWXYZ"[: len(structure.factors)]
    operands = [factor.rank_axes + letter for factor, letter in zip(structure.factors, letters, strict=True)]
    tensor = np.einsum(f"{','.join(operands)}->{letters}", *cores_of(network))
    np.testing.assert_allclose(rearrange(network.to_dense(), structure), tensor, rtol=1e-4, atol=1e-4)
    assert tensor.shape == core_sizes(structure)


def test_rearrange_follows_its_formula_entry_by_entry() -> None:
    """Three factors that split every mode: each entry is where the mixed-radix digits say."""
    sizes = [(2, 1, 3, 1), (3, 2, 1, 2), (1, 2, 2, 2)]
    structure = build_structure("sekron", ("a", "ab", "ab"), sizes, (1, 1))
    weight = np.arange(6 * 4 * 6 * 4, dtype=np.float64).reshape(6, 4, 6, 4)
    tensor = rearrange(weight, structure)
    for where in np.ndindex(*weight.shape):
        digits = [np.unravel_index(where[mode], [size[mode] for size in sizes]) for mode in range(4)]
        n = tuple(np.ravel_multi_index([digits[mode][k] for mode in range(4)], sizes[k]) for k in range(3))
        assert tensor[n] == weight[where]


def test_cores_and_factors_are_the_same_numbers() -> None:
    """Going to cores and back gives the network again, in the dtype asked for."""
    network = random_network(PAIR, 0)
    back = network_of(PAIR, cores_of(network), np.float32)
    for factor, same in zip(network.factors, back.factors, strict=True):
        np.testing.assert_array_equal(factor, same)
        assert same.dtype == np.float32


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones((4, 3, 3, 1)), r"makes a weight \(4, 3, 3, 3\), the given one is \(4, 3, 3, 1\)"),
        (np.ones((4, 3, 3, 3), np.int64), "the weight is int64, expected floating point"),
        (np.full((4, 3, 3, 3), np.nan), "the weight holds 108 NaN or infinity"),
    ],
)
def test_a_weight_that_cannot_be_factorized_is_refused(weight: np.ndarray, message: str) -> None:
    """Each error says what came and what was expected."""
    with pytest.raises(UserInputError, match=message):
        weight_tensor(weight, PAIR, ("a", "a"))


def test_other_rank_axes_than_the_methods_are_refused() -> None:
    """The error names both."""
    with pytest.raises(UserInputError, match="have the rank axes a, a; 2 factors of this method have a, ab"):
        weight_tensor(np.ones((4, 3, 3, 3)), PAIR, ("a", "ab"))


def test_another_number_of_factors_than_the_methods_is_refused() -> None:
    """The error says how many sizes came and how many are needed."""
    with pytest.raises(UserInputError, match="gkpd: 1 factor sizes, expected 2"):
        build_structure("gkpd", ("a", "a"), [(1, 1, 1, 1)], (1,))


def test_a_rank_above_the_highest_is_refused() -> None:
    """The error names the axis and the highest rank; the highest itself passes."""
    check_ranks(PAIR, {"a": 2})
    with pytest.raises(UserInputError, match=r"gkpd: rank 2 of axis 'a' .* at most 1 can be told apart"):
        check_ranks(PAIR, {"a": 1})
