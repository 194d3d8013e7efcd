"""Tucker by HOOI: its definition, its bounds, and that the iteration gains on the HOSVD."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronexport.errors import UserInputError
from kronexport.factorize.network import relative_error
from kronexport.factorize.tensor import Size4
from kronexport.factorize.tucker import leading_left, tucker, tucker2_structure, tucker_max_ranks, tucker_structure

MODES: list[Size4] = [(7, 1, 1, 1), (1, 5, 1, 1), (1, 1, 3, 1), (1, 1, 1, 3), (1, 1, 1, 1)]
KERNEL_IN_CORE: list[Size4] = [(7, 1, 1, 1), (1, 5, 1, 1), (1, 1, 3, 3)]


def test_to_dense_is_the_definition() -> None:
    """Four matrices and the core, written out as one einsum."""
    network = tucker(np.random.default_rng(0).standard_normal((7, 5, 3, 3)), tucker_structure(MODES, (4, 3, 2, 3)))
    shapes = [(4, 7), (3, 5), (2, 3), (3, 3), (4, 3, 2, 3)]
    matrices = [factor.reshape(shape) for factor, shape in zip(network.factors, shapes, strict=True)]
    literal = np.einsum("af,bc,dh,ew,abde->fchw", *matrices)
    np.testing.assert_allclose(network.to_dense(), literal, rtol=1e-12, atol=1e-12)


def test_tucker2_is_pointwise_kxk_pointwise() -> None:
    """W[f, c] = sum over a, b of U[a, f] G[a, b] V[b, c] with a whole kernel in G (Kim et al., equation 2)."""
    structure = tucker2_structure(KERNEL_IN_CORE, (4, 3))
    network = tucker(np.random.default_rng(0).standard_normal((7, 5, 3, 3)), structure)
    left, right, core = (factor.squeeze() for factor in network.factors)
    np.testing.assert_allclose(network.to_dense(), np.einsum("af,bc,abhw->fchw", left, right, core), atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(1, 6)] * 2, *[st.integers(1, 3)] * 2), st.data())
def test_the_error_is_the_energy_that_the_core_lacks(shape: Size4, data: st.DataObject) -> None:
    """||W - W^||^2 = ||W||^2 - ||G||^2, as the matrices are orthonormal; never above the HOSVD's bound."""
    sizes: list[Size4] = [(shape[0], 1, 1, 1), (1, shape[1], 1, 1), (1, 1, *shape[2:])]
    ranks = [data.draw(st.integers(1, size)) for size in shape[:2]]
    structure = tucker2_structure(sizes, ranks)
    if any(rank > most for rank, most in zip(ranks, tucker_max_ranks(structure).values(), strict=True)):
        return
    weight = np.random.default_rng(0).standard_normal(shape)
    network = tucker(weight, structure)
    total = float(np.sum(weight**2))
    error = float(np.sum((weight - network.to_dense()) ** 2))
    assert error == pytest.approx(total - np.sum(network.factors[2] ** 2), abs=1e-10 * total)
    tails = 0.0
    for axis, rank in enumerate(ranks):
        values = np.linalg.svd(np.moveaxis(weight, axis, 0).reshape(shape[axis], -1), compute_uv=False)
        tails += float(np.sum(values[rank:] ** 2))
    assert error <= tails + 1e-10 * total


def test_the_iteration_gains_on_the_hosvd() -> None:
    """Projecting on the HOSVD's matrices alone leaves a larger error."""
    weight = np.random.default_rng(0).standard_normal((7, 5, 3, 3))
    left, right = leading_left(weight, 0, 3), leading_left(weight, 1, 2)
    hosvd = np.einsum("fa,ga,cb,db,gdhw->fchw", left, left, right, right, weight)
    refined = tucker(weight, tucker2_structure(KERNEL_IN_CORE, (3, 2))).to_dense()
    assert relative_error(weight, refined) < 0.999 * relative_error(weight, hosvd)


def test_leading_left_vectors_are_those_of_the_svd() -> None:
    """Up to sign, for a wide and for a tall unfolding; never more than the mode is long."""
    for shape in ((4, 3, 5), (9, 2, 2)):
        tensor = np.random.default_rng(0).standard_normal(shape)
        vectors = np.linalg.svd(tensor.reshape(shape[0], -1), full_matrices=False)[0]
        found = leading_left(tensor, 0, 3)
        np.testing.assert_allclose(np.abs(vectors[:, :3].T @ found), np.eye(3), atol=1e-12)
    assert leading_left(np.ones((4, 3, 5)), 0, 6).shape == (4, 4)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ((8, 5), r"rank 8 of axis 'a' .* at most 7"),
        ((7, 6), r"rank 6 of axis 'b' .* at most 5"),
    ],
)
def test_a_rank_above_the_highest_is_refused(ranks: tuple[int, int], message: str) -> None:
    """A matrix has no more rows than its mode is long."""
    with pytest.raises(UserInputError, match=message):
        tucker(np.ones((7, 5, 3, 3)), tucker2_structure(KERNEL_IN_CORE, ranks))


def test_a_rank_above_what_the_others_leave_is_refused() -> None:
    """A 1x1 kernel: the core is a matrix, so that one rank above the other is wasted."""
    sizes: list[Size4] = [(7, 1, 1, 1), (1, 5, 1, 1), (1, 1, 1, 1)]
    with pytest.raises(UserInputError, match=r"rank 4 of axis 'a' .* at most 3"):
        tucker(np.ones((7, 5, 1, 1)), tucker2_structure(sizes, (4, 3)))
