"""The axis model and the forms: which there are, what they cost, and where Transposes go."""

from dataclasses import replace

from hypothesis import given, settings

from kronexport.factorize.gkpd import gkpd_structure
from kronexport.lower.axes import axis_sizes, contraction_macs, contractions
from kronexport.lower.forms import Form, every_form, generate_forms, least_macs
from kronexport.records import ConvGeometry, Structure
from tests.strategies import Layer, layers

SAME = ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1))


def named(structure: Structure) -> dict[str, Form]:
    return {form.name: form for form in generate_forms(structure, SAME, (14, 14))}


def test_b_first_needs_no_transpose_before_its_first_step() -> None:
    """Contracting the last factor first finds its channels innermost, as they lie."""
    form = named(gkpd_structure((8, 4, 1, 1), (8, 16, 3, 3), 2))["grouped-2-1"]
    assert form.steps[0].transpose_from is None
    assert form.steps[1].transpose_from is not None
    assert form.final_transpose_from is not None


def test_a_low_rank_pair_is_two_plain_convs() -> None:
    """A k x k conv to the rank, then pointwise: no groups, no Transpose, no Reshape."""
    form = named(gkpd_structure((64, 1, 1, 1), (1, 64, 3, 3), 8))["grouped-2-1"]
    assert form.transposes == 0
    assert [step.groups for step in form.steps] == [(), ()]
    assert form.macs == 14 * 14 * (64 * 8 * 9 + 8 * 64)


def test_a_low_rank_pair_of_a_grouped_conv_is_two_grouped_convs() -> None:
    """The groups of the layer are those of both convs: no Transpose, no Reshape."""
    structure = gkpd_structure((64, 1, 1, 1), (1, 16, 3, 3), 8)
    form = next(f for f in generate_forms(structure, replace(SAME, group=4), (14, 14)) if f.name == "grouped-2-1")
    assert form.transposes == 0
    assert [step.groups for step in form.steps] == [("g",), ("g",)]
    assert form.macs == 14 * 14 * (4 * 16 * 8 * 9 + 8 * 64)
    assert form.weights == 4 * 16 * 8 * 9 + 8 * 64


def test_depthwise_then_pointwise_falls_out() -> None:
    """F2 = C2 = 1 with all the kernel in B: a depthwise conv, then a pointwise one, and nothing else."""
    form = named(gkpd_structure((64, 32, 1, 1), (1, 1, 3, 3), 1))["grouped-2-1"]
    assert form.transposes == 0
    assert form.steps[0].groups == ("c1",)
    assert form.macs == 14 * 14 * (32 * 9 + 32 * 64)


def test_gkpd_macs_follow_the_papers_formula() -> None:
    """B first: R H W F2 C1 (C2 K2 L2 + F1 K1 L1); A first: R H W F1 C2 (C1 K1 L1 + F2 K2 L2)."""
    forms = named(gkpd_structure((8, 4, 3, 1), (5, 6, 1, 3), 7))
    area = 14 * 14
    assert forms["grouped-2-1"].macs == 7 * area * 5 * 4 * (6 * 3 + 8 * 3)
    assert forms["grouped-1-2"].macs == 7 * area * 8 * 6 * (4 * 3 + 5 * 3)


@settings(max_examples=100, deadline=None)
@given(layers())
def test_forms_without_expansion_cost_the_contractions_macs(layer: Layer) -> None:
    """Placing what a step keeps as groups, rows or in the batch adds no MACs to the contraction itself."""
    structure = layer.network.structure
    for form in every_form(structure, layer.geometry, layer.input_size):
        sizes = axis_sizes(form.merged, layer.geometry.group)
        order = tuple(step.contraction.factor for step in form.steps)
        chain = contractions(form.merged, layer.geometry, layer.input_size, order)
        least = sum(contraction_macs(step, sizes) for step in chain)
        assert (form.macs > least) == any(step.is_expanded for step in form.steps)
        assert form.macs >= least


@settings(max_examples=100, deadline=None)
@given(layers())
def test_the_least_macs_are_those_of_the_leanest_form(layer: Layer) -> None:
    """Merged or not; rebuilding the whole weight does not count."""
    structure = layer.network.structure
    forms = every_form(structure, layer.geometry, layer.input_size)
    assert least_macs(structure, layer.geometry, layer.input_size) == min(form.macs for form in forms)


@settings(max_examples=100, deadline=None)
@given(layers())
def test_every_chain_ends_with_the_output_axes_and_size(layer: Layer) -> None:
    """Only f axes are left, and the image has the size that the layer's geometry says."""
    for form in generate_forms(layer.network.structure, layer.geometry, layer.input_size)[1:]:
        assert set(form.steps[-1].result) == set(form.output_axes)
        assert form.steps[-1].contraction.output_size == layer.geometry.output_size(layer.input_size)
