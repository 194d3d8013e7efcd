"""CP: its definition, its matrix case, its highest rank, and that it is the same every time."""

import numpy as np
import pytest

from kronexport.errors import UserInputError
from kronexport.factorize.cp import cp, cp_max_ranks, cp_structure
from kronexport.factorize.network import relative_error
from kronexport.factorize.tensor import Size4

MODES: list[Size4] = [(7, 1, 1, 1), (1, 5, 1, 1), (1, 1, 3, 1), (1, 1, 1, 3)]
WEIGHT = np.random.default_rng(0).standard_normal((7, 5, 3, 3))


def test_to_dense_is_the_definition() -> None:
    """Four matrices that share one rank axis, written out as one einsum."""
    network = cp(WEIGHT, cp_structure(MODES, (4,)))
    literal = np.einsum("af,ac,ah,aw->fchw", *(factor.reshape(4, -1) for factor in network.factors))
    np.testing.assert_allclose(network.to_dense(), literal, rtol=1e-12, atol=1e-12)


def test_two_factors_are_a_truncated_svd() -> None:
    """From the HOSVD start a matrix is met at once: the error is the tail of its singular values."""
    weight = WEIGHT[:, :, :1, :1]
    network = cp(weight, cp_structure([(7, 1, 1, 1), (1, 5, 1, 1)], (2,)))
    values = np.linalg.svd(weight[:, :, 0, 0], compute_uv=False)
    expected = np.sqrt(np.sum(values[2:] ** 2) / np.sum(values**2))
    assert relative_error(weight, network.to_dense()) == pytest.approx(expected, rel=1e-9)


def test_the_error_falls_with_the_rank() -> None:
    """Strictly, from 1 to the highest, at which hardly anything is left."""
    most = cp_max_ranks(cp_structure(MODES, (1,)))["a"]
    errors = [relative_error(WEIGHT, cp(WEIGHT, cp_structure(MODES, (r,))).to_dense()) for r in (1, 4, 16, most)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] <= 1e-3


def test_a_rank_above_the_highest_is_refused() -> None:
    """No tensor needs more than all its sizes but the largest, multiplied."""
    with pytest.raises(UserInputError, match=r"rank 46 of axis 'a' .* at most 45 can be told apart"):
        cp(WEIGHT, cp_structure(MODES, (46,)))


def test_the_same_weight_gives_the_same_factors() -> None:
    """The random starts are drawn from one seed."""
    first, second = (cp(WEIGHT, cp_structure(MODES, (5,))) for _ in range(2))
    for factor, same in zip(first.factors, second.factors, strict=True):
        np.testing.assert_array_equal(factor, same)
