"""GKPD: exact at full rank, optimal below it, over every divisor structure."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronexport.errors import UserInputError
from kronexport.factorize.gkpd import (
    divisor_structures,
    divisors,
    gkpd,
    gkpd_structure,
    max_rank,
)
from kronexport.factorize.network import relative_error
from kronexport.factorize.tensor import Size4, rearrange

shapes = st.tuples(*[st.integers(1, 6)] * 2, *[st.integers(1, 7)] * 2).filter(lambda shape: max(shape) > 1)


@settings(max_examples=50, deadline=None)
@given(shapes, st.data())
def test_full_rank_gives_the_weight_back(shape: Size4, data: st.DataObject) -> None:
    """At max_rank every structure holds any weight to float32 accuracy."""
    options = list(divisor_structures(shape))
    if not options:
        return
    unit = data.draw(st.sampled_from(options))
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    structure = gkpd_structure(unit.factors[0].size, unit.factors[1].size, max_rank(unit))
    assert relative_error(weight, gkpd(weight, structure).to_dense()) <= 1e-5


def test_a_weight_with_the_structure_is_recovered() -> None:
    """A sum of three Kronecker products is found again at rank 3, and not at rank 2."""
    generator = np.random.default_rng(0)
    outer, inner = (4, 3, 3, 1), (2, 5, 1, 3)
    terms = [np.kron(generator.standard_normal(outer), generator.standard_normal(inner)) for _ in range(3)]
    weight = np.sum(terms, axis=0)
    assert relative_error(weight, gkpd(weight, gkpd_structure(outer, inner, 3)).to_dense()) <= 1e-12
    assert relative_error(weight, gkpd(weight, gkpd_structure(outer, inner, 2)).to_dense()) >= 1e-2


def test_the_error_is_the_tail_of_the_singular_values() -> None:
    """||W - W^||^2 equals the sum of the squared singular values cut off, at every rank (AAAI 2022, theorem)."""
    weight = np.random.default_rng(0).standard_normal((8, 6, 3, 3))
    outer, inner = (4, 3, 1, 3), (2, 2, 3, 1)
    values = np.linalg.svd(rearrange(weight, gkpd_structure(outer, inner, 1)), compute_uv=False)
    for rank in range(1, len(values)):
        error = relative_error(weight, gkpd(weight, gkpd_structure(outer, inner, rank)).to_dense())
        assert error**2 == pytest.approx(np.sum(values[rank:] ** 2) / np.sum(values**2), rel=1e-9)


def test_every_divisor_structure_is_enumerated_once() -> None:
    """All splits of (4, 6, 3, 1) but the two with a scalar factor; each multiplies back to the weight's shape."""
    found = list(divisor_structures((4, 6, 3, 1)))
    assert len(found) == len(set(found)) == 3 * 4 * 2 * 1 - 2
    assert all(structure.weight_shape == (4, 6, 3, 1) for structure in found)


def test_divisors_are_ascending_and_complete() -> None:
    """Also of primes and of 1."""
    assert divisors(12) == (1, 2, 3, 4, 6, 12)
    assert divisors(7) == (1, 7)
    assert divisors(1) == (1,)


def test_a_structure_that_does_not_divide_is_refused() -> None:
    """The error names the structure and the weight's shape."""
    with pytest.raises(UserInputError, match=r"makes a weight \(8, 4, 1, 1\), the given one is \(6, 4, 1, 1\)"):
        gkpd(np.ones((6, 4, 1, 1)), gkpd_structure((4, 2, 1, 1), (2, 2, 1, 1), 1))


def test_a_rank_above_the_highest_is_refused() -> None:
    """The error says the highest rank."""
    with pytest.raises(UserInputError, match=r"rank 9 .* at most 4"):
        gkpd(np.ones((4, 4, 1, 1)), gkpd_structure((2, 2, 1, 1), (2, 2, 1, 1), 9))


def test_zero_weights_have_zero_factors() -> None:
    """Without a division by zero."""
    zero = np.zeros((4, 4, 3, 3), np.float32)
    structure = gkpd_structure((2, 2, 1, 1), (2, 2, 3, 3), 1)
    assert not gkpd(zero, structure).to_dense().any()
