"""Merged networks: which there are, that they stand for the same weight, and what their forms are called."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronexport.factorize.cp import cp_structure
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.factorize.network import KroneckerNetwork, relative_error
from kronexport.factorize.sekron import sekron_structure
from kronexport.factorize.tensor_ring import tensor_ring_structure
from kronexport.factorize.tensor_train import tensor_train_structure
from kronexport.factorize.tucker import tucker2_structure
from kronexport.lower.forms import every_form, generate_forms
from kronexport.lower.merge import MOST_ORDERS, label, merged_network, merged_structure, partitions, unmerged
from kronexport.records import ConvGeometry, FactorShape, Structure
from tests.strategies import METHOD_STRUCTURES, random_network, structures, with_groups

SAME = ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1))
CP = cp_structure([(64, 1, 1, 1), (1, 64, 1, 1), (1, 1, 3, 1), (1, 1, 1, 3)], (32,))
TUCKER2 = tucker2_structure([(64, 1, 1, 1), (1, 64, 1, 1), (1, 1, 3, 3)], (16, 8))


def labels(structure: Structure, group: int = 1) -> set[str]:
    """The partitions with their parts in order, such as ``13 2``; the unmerged one is left out."""
    first, *merged = partitions(structure, group)
    assert first == unmerged(structure)
    return {" ".join(map(label, partition)) for partition in merged}


def three(*sizes: tuple[int, int, int, int]) -> Structure:
    """Factors of these sizes which share one rank axis."""
    return Structure("cp", (2,), tuple(FactorShape("a", *size) for size in sizes))


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(structures(), st.sampled_from(METHOD_STRUCTURES)),
    st.sampled_from((1, 2, 3)),
    st.integers(0, 2**32 - 1),
)
def test_every_merged_network_stands_for_the_same_weight(structure: Structure, group: int, seed: int) -> None:
    """In float64, whatever the method, the sizes and the ranks are."""
    network = random_network(with_groups(structure, group), seed)
    exact = KroneckerNetwork(network.structure, tuple(factor.astype(np.float64) for factor in network.factors))
    for partition in partitions(network.structure, group):
        merged = merged_network(network, partition)
        assert all(factor.dtype == np.float64 for factor in merged.factors)
        assert merged.structure.factors[0].f % group == 0
        assert relative_error(exact.to_dense(), merged.to_dense()) < 1e-12, partition


@settings(max_examples=100, deadline=None)
@given(structures(), st.integers(1, 2))
def test_ranks_above_1_make_no_difference(structure: Structure, more: int) -> None:
    """So a plan may keep its lowering where its ranks are changed."""
    lower = replace(structure, ranks=tuple(rank + 1 for rank in structure.ranks))
    higher = replace(lower, ranks=tuple(rank + more for rank in lower.ranks))
    assert partitions(lower, 1) == partitions(higher, 1)


def test_two_factors_are_never_merged() -> None:
    """All in one is the form ``dense``."""
    assert labels(gkpd_structure((8, 8, 1, 1), (8, 8, 3, 3), 2)) == set()


def test_neighbours_merge_whatever_their_sizes_are() -> None:
    structure = sekron_structure([(2, 2, 3, 1), (3, 2, 1, 3), (2, 3, 3, 3)], (2, 3))
    assert labels(structure) == {"12 3", "1 23"}
    factors = merged_structure(structure, ((0, 1), (2,))).factors
    assert [(factor.rank_axes, factor.size) for factor in factors] == [("ab", (6, 4, 3, 3)), ("ab", (2, 3, 3, 3))]


def test_rank_axes_that_no_other_part_has_are_summed_away() -> None:
    """``b`` of Tucker-2 is the core's and C's alone: merged, they are a k x k conv from C channels to rank ``a``."""
    merged = merged_structure(TUCKER2, ((0,), (1, 2)))
    assert [factor.rank_axes for factor in merged.factors] == ["a", "a"]
    assert (merged.ranks, merged.factors[1].size) == ((16,), (1, 64, 3, 3))


def test_factors_that_own_whole_modes_merge_in_any_way() -> None:
    """The index of a mode is that of its only factor: all 13 partitions of four factors but the finest and dense."""
    sizes = [(6, 1, 1, 1), (1, 6, 1, 1), (1, 1, 3, 1), (1, 1, 1, 3)]
    train = tensor_train_structure([sizes[0], *sizes[2:], sizes[1]], (2, 2, 2))
    for structure in (CP, train, tensor_ring_structure(sizes, (2, 2, 2, 2))):
        assert len(labels(structure)) == 13


@pytest.mark.parametrize("mode", range(4))
def test_factors_apart_merge_only_where_none_between_is_wide_in_a_mode_of_both(mode: int) -> None:
    """The index would run 1, 3, 2; filters, channels and both kernel modes alike."""

    def size(width: int) -> tuple[int, int, int, int]:
        one = [1, 1, 1, 1]
        one[mode] = width
        return one[0], one[1], one[2], one[3]

    between = {0: (1, 2, 1, 1)}.get(mode, (2, 1, 1, 1))
    assert "13 2" in labels(three(size(3), between, size(3)))
    assert "13 2" not in labels(three(size(3), size(2), size(3)))
    assert "2 13" not in labels(three(size(3), size(2), size(3)))


def test_the_parts_are_in_the_order_that_the_modes_ask_for() -> None:
    """Factor 2 has channels slower than those of 3, so it stands before the part of 1 and 3, which has the filters."""
    structure = three((3, 1, 1, 1), (1, 2, 1, 1), (1, 2, 1, 1))
    assert "2 13" in labels(structure)
    assert "13 2" not in labels(structure)


def test_modes_that_ask_for_opposite_orders_are_refused() -> None:
    """Filters want the part of 1 and 3 first, channels want factor 2 first."""
    assert labels(three((3, 1, 1, 1), (2, 2, 1, 1), (1, 2, 1, 1))) == {"12 3", "1 23"}


def test_the_first_part_says_which_group_a_filter_is_of() -> None:
    structure = three((4, 1, 1, 1), (1, 2, 1, 1), (1, 2, 1, 1))
    assert "2 13" in labels(structure, group=1)
    assert labels(structure, group=2) == {"12 3", "1 23"}


def test_merging_factors_apart_is_their_literal_product() -> None:
    """The order of the members' indices is that of the factors."""
    network = random_network(tensor_ring_structure([(4, 1, 1, 1), (1, 1, 3, 3), (1, 5, 1, 1)], (2, 3, 2)), 0)
    assert [factor.rank_axes for factor in network.structure.factors] == ["ca", "ab", "bc"]
    merged = merged_network(network, ((0, 2), (1,)))
    first, _, last = (factor.astype(np.float64) for factor in network.factors)
    expected = np.einsum("caf,bcs->abfs", first.reshape(2, 2, 4), last.reshape(3, 2, 5))
    assert [factor.rank_axes for factor in merged.structure.factors] == ["ab", "ab"]
    np.testing.assert_allclose(merged.factors[0], expected.reshape(2, 3, 4, 5, 1, 1), rtol=1e-12)


def test_the_slower_member_of_a_part_is_the_first() -> None:
    network = random_network(sekron_structure([(2, 1, 1, 1), (3, 1, 1, 1), (1, 4, 1, 1)], (2, 2)), 0)
    merged = merged_network(network, ((0, 1), (2,)))
    first, second, _ = (factor.astype(np.float64) for factor in network.factors)
    expected = np.einsum("af,abg->abfg", first.reshape(2, 2), second.reshape(2, 2, 3))
    np.testing.assert_allclose(merged.factors[0], expected.reshape(2, 2, 6, 1, 1, 1), rtol=1e-12)


def test_a_part_that_only_scales_is_merged_and_twins_of_that_are_left_out() -> None:
    """CP of a 1x1 conv whose last two factors have no mode: whether F's factor or C's takes them in is all the same."""
    assert labels(cp_structure([(64, 1, 1, 1), (1, 64, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)], (8,))) == {"1 234"}


def test_a_core_without_modes_scales_only_what_has_all_its_rank_axes() -> None:
    """Between F and C it is a matrix; behind both merged, whose weight is dense already, it would do nothing else."""
    core = tucker2_structure([(64, 1, 1, 1), (1, 64, 1, 1), (1, 1, 1, 1)], (16, 8))
    assert labels(core) == {"13 2", "1 23"}


def test_many_factors_are_merged_into_few_first() -> None:
    """Of six that own what they have: into two and no more, since into three there are too many orders."""
    sizes = [(2, 1, 1, 1), (1, 2, 1, 1), (1, 1, 3, 1), (1, 1, 1, 3), (1, 1, 1, 1), (1, 1, 1, 1)]
    rank_axes = ("ae", "be", "ce", "de", "abc", "cd")
    factors = tuple(FactorShape(axes, *size) for axes, size in zip(rank_axes, sizes, strict=True))
    found = Counter(len(partition) for partition in partitions(Structure("tucker", (2,) * 5, factors), 1))
    assert found.keys() == {2, 6}
    assert 2 * found[2] <= MOST_ORDERS


def test_names_list_the_merged_factors_by_their_own_numbers() -> None:
    """The order part by part, those of the unmerged network as ever; an axis by the factors that it is of."""
    names = {form.name for form in every_form(CP, SAME, (14, 14))}
    assert {"grouped-1-2-3-4", "grouped-2-34-1", "grouped-24-13", "rows-2-13-4"} <= names
    grouped = three((4, 2, 1, 1), (1, 2, 3, 3), (2, 1, 1, 1))
    names = {form.name for form in every_form(grouped, replace(SAME, group=2), (14, 14))}
    assert {"c13.folded+g.grouped/grouped-2-13", "grouped/f12.rows+g.grouped-12-3"} <= names


def test_pointwise_depthwise_pointwise_falls_out_of_cp() -> None:
    """Both kernel factors merged are one depthwise 3x3 conv over the rank."""
    form = next(form for form in generate_forms(CP, SAME, (14, 14)) if form.name == "grouped-2-34-1")
    assert [step.groups for step in form.steps] == [(), ("ra",), ()]
    assert form.transposes == 0
    assert form.macs == 14 * 14 * 32 * (64 + 9 + 64)


def test_merged_forms_with_more_macs_than_dense_are_left_out() -> None:
    """Those that are grouped or folded throughout too: nothing is compared with them."""
    dense, *forms = generate_forms(TUCKER2, SAME, (14, 14))
    merged = [form for form in forms if form.partition != unmerged(TUCKER2)]
    assert {form.name for form in merged} == {"grouped-2-13", "grouped-23-1"}
    assert all(form.macs < dense.macs for form in merged)
