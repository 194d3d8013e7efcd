"""Tensor ring: its definition, TR-SVD from any cut, ranks above what the first SVD yields."""

import numpy as np
import pytest

from kronexport.errors import UserInputError
from kronexport.factorize.network import relative_error
from kronexport.factorize.tensor import Size4
from kronexport.factorize.tensor_ring import (
    tensor_ring,
    tensor_ring_max_ranks,
    tensor_ring_structure,
    tensor_ring_svd,
)

MODES: list[Size4] = [(7, 1, 1, 1), (1, 5, 1, 1), (1, 1, 3, 1), (1, 1, 1, 3)]
WEIGHT = np.random.default_rng(0).standard_normal((7, 5, 3, 3))


def test_to_dense_is_the_definition() -> None:
    """Four cores closed to a ring, written out as one einsum."""
    network = tensor_ring(WEIGHT, tensor_ring_structure(MODES, (3, 4, 3, 2)))
    shapes = [(2, 3, 7), (3, 4, 5), (4, 3, 3), (3, 2, 3)]
    cores = [factor.reshape(shape) for factor, shape in zip(network.factors, shapes, strict=True)]
    literal = np.einsum("daf,abk,bch,cdw->fkhw", *cores)
    np.testing.assert_allclose(network.to_dense(), literal, rtol=1e-12, atol=1e-12)


def test_tr_svd_is_exact_where_no_rank_is_cut() -> None:
    """Also where the first SVD yields fewer singular vectors (7) than its rank (2 x 4) asks for."""
    for ranks in ((7, 9, 3, 1), (4, 18, 6, 2)):
        cores = tensor_ring_svd(WEIGHT, ranks)
        assert [core.shape[:2] for core in cores] == [(ranks[k - 1], ranks[k]) for k in range(4)]
        found = np.einsum("daf,abk,bch,cdw->fkhw", *cores)
        assert relative_error(WEIGHT, found) <= 1e-12


@pytest.mark.parametrize("ranks", [(2, 2, 2, 2), (3, 4, 3, 2), (5, 5, 3, 4)])
def test_it_is_at_least_as_good_as_tr_svd(ranks: tuple[int, ...]) -> None:
    """The refined best of all cuts against the plain algorithm."""
    plain = np.einsum("daf,abk,bch,cdw->fkhw", *tensor_ring_svd(WEIGHT, ranks))
    network = tensor_ring(WEIGHT, tensor_ring_structure(MODES, ranks))
    assert relative_error(WEIGHT, network.to_dense()) < 0.99 * relative_error(WEIGHT, plain)


def test_room_beyond_the_first_svd_is_used() -> None:
    """Closing rank 2 on top of opening rank 7 (14 for 7 filters) fits better than 7 alone."""
    errors = [
        relative_error(WEIGHT, tensor_ring(WEIGHT, tensor_ring_structure(MODES, (7, 4, 2, closing))).to_dense())
        for closing in (1, 2)
    ]
    assert errors[1] < 0.95 * errors[0]


def test_a_rank_above_the_highest_is_refused() -> None:
    """By its neighbours' ranks and the sizes on either side, around the ring, or by what any train needs."""
    structure = tensor_ring_structure(MODES, (3, 4, 7, 2))
    assert tensor_ring_max_ranks(structure) == {"a": 14, "b": 9, "c": 6, "d": 9}
    with pytest.raises(UserInputError, match=r"rank 7 of axis 'c' .* at most 6 can be told apart"):
        tensor_ring(WEIGHT, structure)


def test_a_ring_of_two_is_refused() -> None:
    """The error says what to use."""
    with pytest.raises(UserInputError, match="ring of 2 factors, which is GKPD at the product of the ranks"):
        tensor_ring(np.ones((7, 5, 1, 1)), tensor_ring_structure([(7, 1, 1, 1), (1, 5, 1, 1)], (2, 2)))
