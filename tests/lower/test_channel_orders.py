"""Orders: what undoes them, and the Transposes that give them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronexport.lower.channel_orders import (
    CannotReorderError,
    as_transpose,
    inverse,
    is_identity,
    narrowed,
    transposes_of,
    widened,
)


@st.composite
def transposed(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes and axes of a Transpose."""
    sizes = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    return sizes, tuple(draw(st.permutations(range(len(sizes)))))


@given(transposed())
def test_a_transpose_is_found_by_the_order_that_it_gives(case: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """One with no more axes gives the same order."""
    sizes, axes = case
    order = np.arange(math.prod(sizes)).reshape(sizes).transpose(axes).ravel()
    found_sizes, found_axes = as_transpose(order)
    assert len(found_sizes) <= len(sizes)
    assert np.array_equal(np.arange(len(order)).reshape(found_sizes).transpose(found_axes).ravel(), order)
    assert transposes_of(order) == (not is_identity(order))


@given(st.integers(1, 12).flatmap(lambda size: st.permutations(range(size))))
def test_an_order_is_a_transpose_or_refused(order: list[int]) -> None:
    """No order is mistaken for another."""
    try:
        sizes, axes = as_transpose(np.array(order))
    except CannotReorderError:
        return
    assert np.arange(len(order)).reshape(sizes).transpose(axes).ravel().tolist() == order


@given(st.permutations(range(7)), st.integers(1, 3))
def test_orders_are_undone_widened_and_narrowed(order: list[int], k: int) -> None:
    """``inverse`` undoes an order, ``narrowed`` undoes ``widened``, which moves blocks of k."""
    given_order, x = np.array(order), np.arange(7)
    assert is_identity(x[given_order][inverse(given_order)])
    assert np.array_equal(narrowed(widened(given_order, k), k), given_order)
    blocks = np.arange(7 * k).reshape(7, k)
    assert np.array_equal(blocks.ravel()[widened(given_order, k)], blocks[given_order].ravel())


def test_an_order_that_parts_neighbours_is_not_narrowed() -> None:
    with pytest.raises(CannotReorderError, match="blocks of 2"):
        narrowed(np.array([0, 2, 1, 3]), 2)
