"""What FP16 is too small for is found in weights and in what nodes make, and ordinary values are left alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kronexport.precision.half_ranges import LARGEST, Range, ValueRanges, too_small_for, with_all_values
from tests.lower.small_graphs import floats, graph, run

CHAIN = graph(
    "float[1,4,3,3] x => float[1,4,3,3] y",
    "[one] a = Conv(x, w) [two] b = Relu(a) [three] c = Conv(b, v) [four] y = Relu(c)",
    {"w": floats(4, 4, 1, 1), "v": floats(4, 4, 1, 1)},
)


def ranges(**arrays_by_name: np.ndarray) -> ValueRanges:
    found = ValueRanges()
    found.add(arrays_by_name)
    return found


@given(arrays.arrays(np.float32, st.integers(1, 9), elements=st.floats(2**-13, 32000, width=32)))
def test_what_is_in_the_range_of_fp16_is_no_complaint(array: np.ndarray) -> None:
    """However it is rounded: the limit is what rounding does at most."""
    found = Range()
    found.add(array)
    found.add(-array)
    assert found.complaint(2.0) is None


@pytest.mark.parametrize(("largest", "headroom", "bad"), [(6e4, 1, False), (6e4, 2, True), (7e4, 1, True)])
def test_what_overflows_is_a_complaint_that_says_how_far_it_goes(largest: float, headroom: float, *, bad: bool) -> None:
    found = Range()
    found.add(np.array([1, -largest], np.float32))
    complaint = found.complaint(headroom)
    assert (complaint is not None) is bad
    assert complaint is None or f"reaches {largest:.1e}" in complaint


@pytest.mark.parametrize("scale", [1e-6, 1e-9])
def test_what_goes_under_is_a_complaint(scale: float) -> None:
    """With few bits left, or none."""
    found = Range()
    found.add(scale * floats(100))
    assert "is so small" in (found.complaint(1.0) or "")


def test_few_small_values_among_large_ones_are_no_complaint() -> None:
    found = Range()
    found.add(np.array([1.0, 1e-9, 0.0], np.float32))
    assert found.complaint(1.0) is None


def test_what_is_infinite_in_float_is_none_of_fp16s_doing() -> None:
    """Such as the padding of a maximum."""
    found = Range()
    found.add(np.array([-np.inf, 1.0], np.float32))
    assert found.complaint(2.0) is None


def test_those_that_make_or_read_a_large_value_are_named_with_it() -> None:
    large = np.full((1, 4, 3, 3), 2 * LARGEST, np.float32)
    found = too_small_for(CHAIN, ranges(x=floats(1, 4, 3, 3), b=large))
    assert found == {"two": "b reaches 1.3e+05", "three": "b reaches 1.3e+05"}


def test_a_large_input_and_a_small_weight_are_found() -> None:
    small = graph(
        "float[1,4,3,3] x => float[1,4,3,3] y",
        "[one] a = Relu(x) [two] y = Conv(a, w)",
        {"w": 1e-8 * floats(4, 4, 1, 1)},
    )
    found = too_small_for(small, ranges(x=np.full((1, 4, 3, 3), 1e6, np.float32)))
    assert set(found) == {"one", "two"}
    assert found["one"].startswith("x reaches")
    assert found["two"].startswith("w is so small")


def test_ordinary_networks_have_none() -> None:
    assert too_small_for(CHAIN, ranges(x=floats(1, 4, 3, 3), a=floats(1, 4, 3, 3))) == {}


def test_all_values_that_nodes_make_are_outputs() -> None:
    told = with_all_values(CHAIN)
    names = [value.name for value in told.graph.outputs]
    assert sorted(map(str, names)) == ["a", "b", "c", "y"]
    values = dict(zip(names, run(told, {"x": floats(1, 4, 3, 3)}), strict=True))
    assert (values["b"] == np.maximum(values["a"], 0)).all()
