"""Tensor train: its definition, TT-SVD's error bound, and the highest ranks."""

import numpy as np
import pytest

from kronexport.errors import UserInputError
from kronexport.factorize.network import relative_error
from kronexport.factorize.tensor import Size4
from kronexport.factorize.tensor_train import (
    tensor_train,
    tensor_train_max_ranks,
    tensor_train_structure,
)

MODES: list[Size4] = [(7, 1, 1, 1), (1, 1, 3, 1), (1, 1, 1, 3), (1, 5, 1, 1)]


def test_to_dense_is_the_definition() -> None:
    """Four cores in the order F, kh, kw, C, written out as one einsum."""
    weight = np.random.default_rng(0).standard_normal((7, 5, 3, 3))
    network = tensor_train(weight, tensor_train_structure(MODES, (4, 5, 3)))
    shapes = [(4, 7), (4, 5, 3), (5, 3, 3), (3, 5)]
    cores = [factor.reshape(shape) for factor, shape in zip(network.factors, shapes, strict=True)]
    literal = np.einsum("af,abh,bcw,cz->fzhw", *cores)
    np.testing.assert_allclose(network.to_dense(), literal, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ranks", [(1, 1, 1), (3, 4, 2), (5, 9, 4), (7, 15, 5)])
def test_the_error_stays_below_the_bound_of_tt_svd(ranks: tuple[int, int, int]) -> None:
    """||T - T^||^2 <= sum over the unfoldings of the tails cut off (Oseledets 2011, theorem 2.2)."""
    weight = np.random.default_rng(0).standard_normal((7, 5, 3, 3))
    tensor = weight.transpose(0, 2, 3, 1)
    tails = 0.0
    for split, rank in enumerate(ranks, 1):
        unfolded = tensor.reshape(int(np.prod(tensor.shape[:split])), -1)
        tails += float(np.sum(np.linalg.svd(unfolded, compute_uv=False)[rank:] ** 2))
    network = tensor_train(weight, tensor_train_structure(MODES, ranks))
    assert np.sum((weight - network.to_dense()) ** 2) <= tails + 1e-12 * np.sum(weight**2)


def test_two_factors_are_a_truncated_svd() -> None:
    """The error of a matrix is the tail of its singular values."""
    weight = np.random.default_rng(0).standard_normal((7, 5, 1, 1))
    network = tensor_train(weight, tensor_train_structure([(7, 1, 1, 1), (1, 5, 1, 1)], (2,)))
    values = np.linalg.svd(weight[:, :, 0, 0], compute_uv=False)
    expected = np.sqrt(np.sum(values[2:] ** 2) / np.sum(values**2))
    assert relative_error(weight, network.to_dense()) == pytest.approx(expected, rel=1e-12)


def test_at_the_highest_ranks_it_is_exact_and_above_them_refused() -> None:
    """Each rank is bounded by its neighbours' and the sizes on either side."""
    weight = np.random.default_rng(0).standard_normal((7, 5, 3, 3))
    structure = tensor_train_structure(MODES, (7, 15, 5))
    assert tensor_train_max_ranks(structure) == {"a": 7, "b": 15, "c": 5}
    assert relative_error(weight, tensor_train(weight, structure).to_dense()) <= 1e-12
    with pytest.raises(UserInputError, match=r"rank 7 of axis 'b' .* at most 6 can be told apart"):
        tensor_train(weight, tensor_train_structure(MODES, (2, 7, 5)))
