"""One weight, one budget: every structure at the highest rank that it allows, with its true error."""

import math
from typing import Any

import numpy as np
import pytest

import kronexport
from kronexport.errors import GoalError, UserInputError
from kronexport.factorize.budget import position_macs
from kronexport.factorize.decompose import decompose
from kronexport.factorize.gkpd import divisor_structures, max_rank
from kronexport.factorize.network import relative_error
from kronexport.lower.axes import axis_sizes, contraction_macs, contractions, orders
from kronexport.records import ConvGeometry

WEIGHT = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32)


def test_a_budget_gives_every_structure_at_its_highest_rank() -> None:
    """One rank more would break the budget or be above the highest; those left out break it at rank 1."""
    params, macs = WEIGHT.size // 2, WEIGHT.size // 3
    found = kronexport.scan(WEIGHT, params=params, macs=macs)
    by_size = {tuple(factor.size for factor in one.structure.factors): one for one in found}
    for unit in divisor_structures(WEIGHT.shape):
        one = by_size.pop(tuple(factor.size for factor in unit.factors), None)
        if one is None:
            assert unit.params > params or position_macs(unit) > macs
            continue
        (rank,) = one.structure.ranks
        assert one.params == one.structure.params == rank * unit.params <= params
        assert one.macs == rank * position_macs(unit) <= macs
        beyond = rank + 1
        assert beyond > max_rank(unit) or beyond * unit.params > params or beyond * position_macs(unit) > macs
    assert not by_size
    assert [one.rel_error for one in found] == sorted(one.rel_error for one in found)


def test_the_error_is_that_of_the_factors() -> None:
    """What ``decompose`` reaches with the structure as it is handed back."""
    for one in kronexport.scan(WEIGHT, params=WEIGHT.size // 2)[::20]:
        assert relative_error(WEIGHT, decompose(WEIGHT, one.structure).to_dense()) == pytest.approx(
            one.rel_error,
            rel=1e-5,  # the scan's squares are 1e-6 off
        )


def test_without_a_budget_every_structure_is_exact() -> None:
    assert max(one.rel_error for one in kronexport.scan(WEIGHT)) <= 2e-3  # the root of the scan's rounding


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 5)])
def test_macs_are_those_of_the_cheaper_order(kernel: tuple[int, int]) -> None:
    """As the lowering counts them, at stride 1 and with as many outputs as inputs."""
    pads = (kernel[0] // 2, kernel[1] // 2) * 2
    geometry, size = ConvGeometry(kernel, pads=(pads[0], pads[1], pads[2], pads[3])), (6, 7)
    for unit in divisor_structures((6, 4, *kernel)):
        sizes = axis_sizes(unit, 1)
        counted = [
            sum(contraction_macs(step, sizes) for step in contractions(unit, geometry, size, order))
            for order in orders(unit)
        ]
        assert position_macs(unit) * math.prod(size) == min(counted)


def test_prime_channel_counts_leave_kernels_and_low_rank() -> None:
    """In each mode one factor has all and the other nothing."""
    found = kronexport.scan(np.random.default_rng(0).standard_normal((7, 5, 3, 3)), params=200)
    assert found
    for one in found:
        outer, inner = one.structure.factors
        assert all(1 in pair for pair in zip(outer.size, inner.size, strict=True))


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"params": 10}, r"\(16, 16, 3, 3\) has params <= 10; the least of each: 96 params \(.* at rank 1\)"),
        ({"macs": 10.5}, r"has macs <= 10.5; the least of each: \d+ macs \(.* at rank 1\)"),
        ({"params": 100, "macs": 10}, r"has params <= 100 and macs <= 10; the least of each: 96 params .*, \d+ macs"),
    ],
    ids=["params", "macs", "both"],
)
def test_a_budget_that_none_meets_is_refused(budget: dict[str, float], message: str) -> None:
    """The message says the least that is reachable."""
    with pytest.raises(GoalError, match=message):
        kronexport.scan(WEIGHT, **budget)


@pytest.mark.parametrize("number", [0, -1, math.nan])
def test_a_budget_that_makes_no_sense_is_refused(number: float) -> None:
    with pytest.raises(UserInputError, match=r"scan: macs=.*, expected a positive number"):
        kronexport.scan(WEIGHT, macs=number)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones((4, 4)), r"scan: the weight is \(4, 4\), expected \[F, C, kh, kw\]"),
        (np.ones((4, 4, 3, 3), np.int64), "scan: the weight is int64"),
        (np.full((4, 4, 3, 3), np.nan), "scan: the weight holds 144 NaN"),
        ([1.0], "scan: the weight is a list, expected a numpy array"),
        (np.ones((7, 1, 1, 1)), r"\(7, 1, 1, 1\) has no structure: its 7 elements cannot be split"),
    ],
    ids=["axes", "type", "nan", "list", "prime"],
)
def test_a_weight_that_is_none_is_refused(weight: Any, message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        kronexport.scan(weight, params=100)
