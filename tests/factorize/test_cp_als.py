"""CP of a tensor: orthonormal terms with a known error, and sweeps that only lower it."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kronexport.factorize.cp_als import improve, longest_first, orthonormal_terms

SHAPES = st.lists(st.integers(1, 7), min_size=2, max_size=4)


def tensor_of(shape: Sequence[int], seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal(shape)


def dense(cores: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The sum over the rank axis, by one einsum."""
    modes = "bcde"[: len(cores)]
    product: NDArray[np.float64] = np.einsum(f"{','.join('a' + mode for mode in modes)}->{modes}", *cores)
    return product


def squared_distance(tensor: NDArray[np.float64], cores: Sequence[NDArray[np.float64]]) -> float:
    return float(np.sum(np.square(tensor - dense(cores))))


@settings(deadline=None)
@given(SHAPES, st.integers(0, 3))
def test_the_error_of_the_first_terms_is_known(shape: list[int], seed: int) -> None:
    """At every rank it is what all other terms weigh; all terms together are the tensor."""
    tensor = tensor_of(shape, seed)
    terms = orthonormal_terms(tensor)
    total = np.sum(np.square(tensor))
    for rank in {1, 2, len(terms.values) // 2 or 1, len(terms.values)}:
        told = total * terms.tails[min(rank, len(terms.values)) - 1]
        assert squared_distance(tensor, terms.cores(rank)) == pytest.approx(told, abs=1e-10 * total)
    assert list(terms.values) == sorted(terms.values, reverse=True)


@settings(deadline=None)
@given(SHAPES, st.integers(1, 6), st.integers(0, 3))
def test_sweeps_lower_the_error_that_they_tell(shape: list[int], rank: int, seed: int) -> None:
    """From the terms as from noise, and never up."""
    tensor = tensor_of(shape, seed)
    noise = [tensor_of((rank, size), seed + 1) for size in shape]
    for start in (orthonormal_terms(tensor).cores(rank), noise):
        before = squared_distance(tensor, start)
        for sweeps in (1, 5):
            cores, told = improve(tensor, start, sweeps)
            after = squared_distance(tensor, cores)
            assert after == pytest.approx(told, abs=1e-9 * np.sum(np.square(tensor)))
            assert after <= before * (1 + 1e-9) + 1e-9
            before = after


def test_each_core_is_the_best_given_the_others() -> None:
    """After many sweeps a solver that knows nothing of CP finds no better one."""
    tensor = tensor_of((5, 3, 4))
    cores, told = improve(tensor, orthonormal_terms(tensor).cores(3), 2000)
    for k, core in enumerate(cores):
        units = np.eye(core.size).reshape(-1, *core.shape)
        columns = [dense([*cores[:k], unit, *cores[k + 1 :]]).ravel() for unit in units]
        best, *_ = np.linalg.lstsq(np.stack(columns, 1), tensor.ravel())
        left = np.sum(np.square(np.stack(columns, 1) @ best - tensor.ravel()))
        assert left == pytest.approx(told, rel=1e-3)


def test_float32_comes_to_the_same() -> None:
    """To rounding, and in float32 throughout."""
    tensor = tensor_of((12, 9, 10))
    narrow = tensor.astype(np.float32)
    cores, told = improve(narrow, orthonormal_terms(narrow).cores(20), 10)
    assert all(core.dtype == np.float32 for core in cores)
    assert told == pytest.approx(improve(tensor, orthonormal_terms(tensor).cores(20), 10)[1], rel=1e-3)


def test_a_rank_above_all_terms_is_filled_up_with_zeros() -> None:
    """And stays exact after a sweep, although the normal equations are singular."""
    tensor = tensor_of((2, 3))
    cores = orthonormal_terms(tensor).cores(5)
    assert all(core.shape[0] == 5 and not core[2:].any() for core in cores)
    improved, told = improve(tensor, cores, 3)
    assert np.isfinite(dense(improved)).all()
    assert told <= 1e-12


def test_a_tensor_of_zeros_has_no_error() -> None:
    """Nor does it divide by zero."""
    zero = np.zeros((4, 3, 2))
    terms = orthonormal_terms(zero)
    assert not terms.tails.any()
    cores, told = improve(zero, terms.cores(2), 5)
    assert told == 0
    assert not dense(cores).any()


def test_work_ends_where_the_check_says() -> None:
    def stop() -> None:
        raise InterruptedError

    tensor = tensor_of((4, 3, 2))
    with pytest.raises(InterruptedError):
        improve(tensor, orthonormal_terms(tensor).cores(2), 5, stop)


def test_equal_modes_keep_their_order() -> None:
    assert longest_first((3, 9, 9, 1)) == (1, 2, 0, 3)
