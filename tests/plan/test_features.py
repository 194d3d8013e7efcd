"""Features: each Conv counts under its own kind, and counts add up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronexport.backends.profile import load_target
from kronexport.measure.work import ConvWork, Work
from kronexport.plan.features import Features, Kind, features_of, kind_of, roofline_prices
from kronexport.records import FLOAT_BYTES

SIZES = st.integers(1, 40)
CONVS = st.builds(ConvWork, SIZES, SIZES, SIZES, SIZES, SIZES, SIZES, SIZES)
WORKS = st.builds(
    Work,
    st.lists(CONVS, max_size=3).map(tuple),
    st.lists(SIZES, max_size=3).map(tuple),
    st.lists(SIZES, max_size=3).map(tuple),
)


@pytest.mark.parametrize(
    ("groups", "inputs", "outputs", "kernel", "kind"),
    [
        (1, 3, 16, 9, "full"),
        (1, 3, 16, 1, "pointwise"),
        (4, 16, 32, 9, "wide"),
        (4, 8, 32, 9, "narrow"),
        (4, 16, 8, 1, "narrow"),
        (4, 1, 2, 9, "narrow"),
        (4, 1, 1, 9, "depthwise"),
    ],
)
def test_a_conv_is_of_one_kind(groups: int, inputs: int, outputs: int, kernel: int, kind: Kind) -> None:
    conv = ConvWork(2, groups, inputs, outputs, kernel, 30, 20)
    assert kind_of(conv) == kind
    found = features_of(Work((conv,)))._asdict()
    kinds = ("full", "pointwise", "wide", "narrow", "depthwise")
    assert [name for name in kinds if found[name]] == [kind]
    lanes = outputs if kind == "depthwise" else -(-outputs // 16) * 16
    assert found[kind] == 2 * groups * inputs * lanes * kernel * 20


def test_only_wide_kernels_of_narrow_groups_are_unfolded() -> None:
    """As many elements as im2col writes: a column of the kernel's inputs a pixel."""
    narrow = ConvWork(2, 4, 8, 8, 9, 30, 20)
    assert features_of(Work((narrow,))).unfolded == 2 * 4 * 8 * 9 * 20
    for other in (narrow._replace(kernel=1), narrow._replace(groups=1), narrow._replace(inputs=16, outputs=16)):
        assert features_of(Work((other,))).unfolded == 0


@given(WORKS, WORKS)
def test_counts_add_up(one: Work, other: Work) -> None:
    both = Work(one.convs + other.convs, one.transposes + other.transposes, one.joints + other.joints)
    added = [sum(pair) for pair in zip(features_of(one), features_of(other), strict=True)]
    assert features_of(both) == pytest.approx(added)
    assert min(features_of(both)) >= 0


def test_the_roofline_s_prices_are_the_target_s() -> None:
    profile = load_target("cpu")
    prices, roofline = roofline_prices(profile), profile.roofline
    assert Features(wide=1e9).dot(prices) == pytest.approx(1 / roofline.peak_gmacs)
    assert Features(relaid=1e9).dot(prices) == pytest.approx(FLOAT_BYTES / roofline.bandwidth_gbs)
    assert Features(nodes=1).dot(prices) == pytest.approx(roofline.launch_us * 1e-6)
