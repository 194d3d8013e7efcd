"""Orders of channels, and the Transposes that give them.

An order o of n channels is an array that holds 0 .. n-1: y = x[:, o]. One after the other,

    x[:, o][:, p] = x[:, o[p]]        and so        x[:, o][:, inverse(o)] = x

Reshape to ``sizes``, Transpose by ``axes`` and Reshape back is the order arange(n).reshape(sizes).transpose(axes).
"""

import math

import numpy as np
from numpy.typing import NDArray

Order = NDArray[np.intp]


class CannotReorderError(Exception):
    """Channels cannot be put into that order here; the text says why."""


def inverse(order: Order) -> Order:
    """The order that undoes ``order``."""
    return np.argsort(order)


def is_identity(order: Order) -> bool:
    """Whether ``order`` leaves everything where it is."""
    return bool(np.array_equal(order, np.arange(len(order))))


def widened(order: Order, k: int) -> Order:
    """``order`` where each channel has become ``k`` neighbours."""
    return (order[:, None] * k + np.arange(k)).ravel()


def narrowed(order: Order, k: int) -> Order:
    """``order`` where ``k`` neighbours have become one channel; raises CannotReorderError if it parts them."""
    narrow = order[::k] // k
    if not np.array_equal(widened(narrow, k), order):
        raise CannotReorderError(f"the order tears blocks of {k} apart")
    return narrow


def as_transpose(order: Order) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Fewest ``sizes`` and ``axes`` whose Reshape and Transpose give ``order``; CannotReorderError if none do.

    Read from the fastest axis of the result on: its stride in the source is order[1] for as far as it goes.
    """
    digits: list[tuple[int, int]] = []  # (stride in the source, size), the fastest axis of the result first
    block = 1
    while block < len(order):
        stride = int(order[block])
        strided = order[::block] == stride * np.arange(len(order[::block]))
        size = len(strided) if strided.all() else max(1, int(np.argmin(strided)))
        if size == 1:
            break  # order[0] is not 0
        digits.append((stride, size))
        block *= size
    digits.reverse()
    by_stride = sorted(range(len(digits)), key=lambda at: -digits[at][0])
    sizes = tuple(digits[at][1] for at in by_stride)
    axes = tuple(by_stride.index(at) for at in range(len(digits)))
    if math.prod(sizes) == len(order):
        found = np.arange(len(order)).reshape(sizes).transpose(axes)
        if np.array_equal(found.ravel(), order):
            return sizes, axes
    raise CannotReorderError(f"no Transpose puts {len(order)} channels into the order {order}")


def transposes_of(order: Order) -> int:
    """Transposes that ``order`` takes, 0 or 1; raises CannotReorderError if no single one does it."""
    if is_identity(order):
        return 0
    as_transpose(order)
    return 1
