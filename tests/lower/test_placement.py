"""Placements and layouts: where kept axes go, what combinations are called, and which are left out."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings

from kronexport.factorize.gkpd import gkpd_structure
from kronexport.factorize.sekron import sekron_structure
from kronexport.factorize.tucker import tucker_structure
from kronexport.lower.axes import Roles
from kronexport.lower.forms import Form, every_form, generate_forms
from kronexport.lower.merge import partitions
from kronexport.lower.placement import BASELINES, MOST_COMBINATIONS, PLACEMENTS, combinations
from kronexport.records import ConvGeometry, Structure
from tests.strategies import Layer, layers

SAME = ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1))
EVEN = gkpd_structure((8, 8, 1, 1), (8, 8, 3, 3), 2)


def roles(spectators: str = "", diagonal: str = "", *, flat: bool = True) -> Roles:
    return Roles(frozenset("c"), frozenset("f"), frozenset(diagonal), frozenset(spectators), flat)


def named(structure: Structure, geometry: ConvGeometry = SAME) -> dict[str, Form]:
    return {form.name: form for form in generate_forms(structure, geometry, (14, 14))}


def test_rows_and_batch_hold_no_axis_over_which_weights_differ() -> None:
    """A diagonal axis is grouped or expanded, whatever the rest of the chain is."""
    found = combinations((roles("s", "d"),), 100)
    assert {dict(assignment)["d"] for (assignment,) in found} == {"grouped", "expanded"}
    assert {dict(assignment)["s"] for (assignment,) in found} == set(PLACEMENTS)


def test_rows_need_a_step_within_each_row() -> None:
    (word, *_) = combinations((roles("s", flat=False),), 100).values()
    assert word == "grouped"
    assert "rows" not in combinations((roles("s", flat=False),), 100).values()


def test_names_say_the_placement_step_by_step_and_axis_by_axis() -> None:
    """The coarsest words that tell a combination from the others."""
    words = list(combinations((roles(), roles("st")), 100).values())
    assert words[:4] == list(PLACEMENTS)
    assert "plain/s.grouped+t.rows" in words
    assert len(set(words)) == len(words) == 16


@pytest.mark.parametrize(("most", "count"), [(256, 256), (255, 16), (15, 4)])
def test_where_there_are_too_many_axes_are_placed_alike(most: int, count: int) -> None:
    """Each axis on its own, then those of a step alike, then those of the chain."""
    assert len(combinations((roles("st"), roles("st")), most)) == count


def test_a_pointwise_factor_needs_no_transpose_with_rows() -> None:
    """Contracted first or last: what the grouped forms need two for."""
    forms = named(EVEN)
    for name in ("rows-1-2", "rows-2-1"):
        assert (forms[name].transposes, forms[name].macs) == (0, forms["grouped-1-2"].macs)
    assert forms["rows-1-2"].absorbs_affine
    assert not forms["rows-2-1"].absorbs_affine


@pytest.mark.parametrize("geometry", [ConvGeometry((3, 3), (2, 1)), ConvGeometry((3, 3), (1, 1), (1, 0, 0, 0))])
def test_a_step_that_strides_or_pads_along_h_takes_no_rows(geometry: ConvGeometry) -> None:
    """Both fall on the first factor here if it is all that has kernel height."""
    forms = named(gkpd_structure((8, 8, 3, 1), (8, 8, 1, 3), 1), geometry)
    for form in forms.values():
        for step in form.steps:
            assert not step.rows or step.contraction.factor == 1


def test_an_expanded_axis_multiplies_macs_and_weights_of_its_step() -> None:
    """Eight times those of the pointwise step; its outputs come in natural order without a Transpose."""
    forms = named(EVEN)
    grouped, expanded = forms["grouped-2-1"], forms["grouped/expanded-2-1"]
    pointwise = 64 * 16
    assert expanded.weights - grouped.weights == 7 * pointwise
    assert expanded.macs - grouped.macs == 7 * pointwise * 14 * 14
    assert (expanded.transposes, expanded.last_axes) == (0, expanded.output_axes)


def test_rows_stand_for_images_in_the_batch_where_nothing_is_added() -> None:
    """``grouped/rows-2-1`` is ``rows-2-1``, and no form with its second step folded is left but the papers' own."""
    assert [name for name in named(EVEN) if name.endswith("/folded-2-1")] == []
    assert "folded-2-1" in named(EVEN)


@settings(max_examples=100, deadline=None)
@given(layers())
def test_forms_that_need_more_macs_than_dense_are_baselines(layer: Layer) -> None:
    dense, *forms = generate_forms(layer.network.structure, layer.geometry, layer.input_size)
    assert all(form.macs < dense.macs or form.placement in BASELINES for form in forms)
    names = [form.name for form in (dense, *forms)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("structure", [EVEN, gkpd_structure((16, 1, 3, 3), (4, 64, 1, 1), 2)], ids=str)
def test_higher_ranks_have_the_same_forms_but_for_those_that_need_too_many_macs(structure: Structure) -> None:
    """So the planner may take the forms of rank 2 for those of every higher one."""
    outer, inner = structure.factors
    lower = named(structure)
    for rank in (3, 4, 5, 6, 7):
        higher = named(gkpd_structure(outer.size, inner.size, rank))
        assert [name for name in lower if name in higher] == list(higher)
        assert all(lower[name].steps == form.steps for name, form in higher.items())


@pytest.mark.parametrize(
    "structure",
    [
        sekron_structure([(2, 2, 1, 1)] * 3 + [(2, 2, 3, 3)], (2, 2, 2)),
        tucker_structure([(6, 1, 1, 1), (1, 6, 1, 1), (1, 1, 3, 1), (1, 1, 1, 3), (1, 1, 1, 1)], (3, 2, 2, 2)),
    ],
    ids=lambda structure: structure.method,
)
def test_the_number_of_forms_is_bounded(structure: Structure) -> None:
    """Of each number of Convs by the number of combinations; where it has too many orders, by one a placement."""
    orders = Counter[int]()
    for partition in partitions(structure, 1):
        orders[len(partition)] += math.factorial(len(partition))
    found = Counter(len(form.steps) for form in every_form(structure, SAME, (14, 14)))
    assert found.keys() == orders.keys()
    for convs, number in found.items():
        assert number <= max(MOST_COMBINATIONS, orders[convs] * len(PLACEMENTS))
