"""The error of Tucker-2 at every pair of ranks: that of the truncated HOSVD, just above what decompose reaches."""

from dataclasses import replace

import numpy as np
import pytest

from kronexport.factorize.decompose import decompose
from kronexport.factorize.network import relative_error
from kronexport.factorize.tensor import Size4
from kronexport.factorize.tucker import leading_left, tucker2_structure
from kronexport.factorize.tucker_errors import tucker2_errors, tucker2_units

WEIGHT = np.random.default_rng(0).standard_normal((12, 8, 3, 3))


def test_it_is_the_error_of_the_projection() -> None:
    """Onto the leading vectors of both modes, at every pair of ranks."""
    ((_, errors),) = tucker2_errors(WEIGHT).items()
    assert errors.shape == (12, 8)
    for first in range(1, 13):
        for second in range(1, 9):
            left, right = leading_left(WEIGHT, 0, first), leading_left(WEIGHT, 1, second)
            kept = np.einsum("fa,ga,gchw,cb,db->fdhw", left, left, WEIGHT, right, right, optimize=True)
            exact = relative_error(WEIGHT, kept) ** 2
            assert errors[first - 1, second - 1] == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("ranks", [(3, 2), (6, 4), (9, 8), (12, 4)])
def test_decompose_reaches_a_little_less(ranks: tuple[int, int]) -> None:
    ((unit, errors),) = tucker2_errors(WEIGHT).items()
    reached = relative_error(WEIGHT, decompose(WEIGHT, replace(unit, ranks=ranks)).to_dense()) ** 2
    assert reached - 1e-6 <= errors[ranks[0] - 1, ranks[1] - 1] <= 1.1 * reached + 1e-6


def test_a_weight_of_low_ranks_is_met_from_there_on() -> None:
    structure = tucker2_structure([(12, 1, 1, 1), (1, 8, 1, 1), (1, 1, 3, 3)], (4, 3))
    ((_, errors),) = tucker2_errors(decompose(WEIGHT, structure).to_dense()).items()
    assert errors[3:, 2:] == pytest.approx(0, abs=1e-6)
    assert errors[2, -1] > 1e-2
    assert errors[-1, 1] > 1e-2


@pytest.mark.parametrize("shape", [(16, 12, 1, 1), (16, 1, 3, 3), (1, 12, 3, 3)])
def test_what_two_factors_can_do_has_no_units(shape: Size4) -> None:
    assert not list(tucker2_units(shape))
    assert tucker2_errors(np.ones(shape)) == {}


def test_a_weight_of_zeros_has_no_error() -> None:
    ((_, errors),) = tucker2_errors(np.zeros((8, 6, 3, 3))).items()
    assert not errors.any()
