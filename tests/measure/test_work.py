"""Work: the Convs of the model that is timed, and the images that it rearranges; kept as text."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from kronexport.backends.profile import load_target
from kronexport.export.onnx_export import EXPORTER_OPSET
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.lower.forms import Form, every_form, generate_forms
from kronexport.measure.micro import Trial, micro_model
from kronexport.measure.work import ConvWork, Work, read_work, work_of, work_text
from kronexport.plan.cost_model import fitted_model
from kronexport.plan.roofline import work_seconds
from kronexport.records import ConvGeometry, Structure
from tests.strategies import METHOD_STRUCTURES

GEOMETRY = ConvGeometry((3, 3), stride=(2, 1), pads=(1, 0, 1, 2))
SIZE = (9, 7)
PAIR = gkpd_structure((2, 3, 1, 1), (4, 2, 3, 3), 2)


def forms(structure: Structure = PAIR) -> dict[str, Form]:
    return {form.name: form for form in generate_forms(structure, GEOMETRY, SIZE)}


@pytest.mark.parametrize("structure", [PAIR, METHOD_STRUCTURES[1], METHOD_STRUCTURES[6]], ids=str)
def test_convs_are_those_of_the_model(structure: Structure) -> None:
    """Groups and channels of each in order, MACs and Transposes of the whole form."""
    for form in forms(structure).values():
        work = work_of(form, 2)
        model = micro_model(Trial(form, 2, has_bias=True), EXPORTER_OPSET)
        convs = [node for node in model.graph if node.op_type == "Conv"]
        assert [_sizes(node) for node in convs] == [
            (conv.groups, conv.groups * conv.outputs, conv.inputs, conv.kernel) for conv in work.convs
        ]
        assert (work.macs, work.weights) == (2 * form.macs, form.weights)
        assert len(work.transposes) == form.transposes


def _sizes(node: ir.Node) -> tuple[int, int, int, int]:
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    filters, inputs, *kernel = weight.const_value.shape.numpy()
    return node.attributes["group"].as_int(), filters, inputs, int(np.prod(kernel))


def test_what_a_dense_conv_reads_and_writes() -> None:
    """9x7 images of 6 channels become 5x7 ones of 8 (stride 2 along H), for a batch of 2."""
    (conv,) = work_of(forms()["dense"], 2).convs
    assert conv == ConvWork(images=2, groups=1, inputs=6, outputs=8, kernel=9, read=63, written=35)
    assert conv.moved == 2 * (6 * 63 + 8 * 35) + 6 * 8 * 9


def test_joints_are_where_images_are_rearranged_behind_a_conv() -> None:
    """None in a chain of plain Convs; between both Convs and at the end where both ends are folded or transposed."""
    chain = forms(gkpd_structure((8, 1, 1, 1), (1, 6, 3, 3), 3))["grouped-2-1"]
    assert work_of(chain, 1).joints == ()
    grouped, folded = (work_of(forms()[name], 1) for name in ("grouped-2-1", "folded-2-1"))
    between, end = 3 * 4 * 2 * 35, 8 * 35
    assert grouped.joints == (between, end)
    assert grouped.transposes == (between, end)
    assert folded.joints == (between, end)


@pytest.mark.parametrize("structure", [PAIR, METHOD_STRUCTURES[1], METHOD_STRUCTURES[6]], ids=str)
def test_counts_of_a_ladder_are_those_at_each_of_its_ranks(structure: Structure) -> None:
    """Of every form, whichever of its axes has the ranks; and what is estimated from them."""
    template = replace(structure, ranks=tuple(2 for _ in structure.ranks))
    ladder = [replace(structure, ranks=tuple(rank + at for at, _ in enumerate(structure.ranks))) for rank in (2, 3, 17)]
    letters = template.rank_sizes
    ranks = dict(zip(letters, np.array([one.ranks for one in ladder]).T, strict=True))
    profile = load_target("cpu")
    model = fitted_model(profile, [])
    for form in every_form(template, GEOMETRY, SIZE):
        work = work_of(form, 2, ranks)
        for at, one in enumerate(ladder):
            alone = work_of(replace(form, structure=one), 2)
            assert (_at(work.macs, at), _at(work.weights, at)) == (alone.macs, alone.weights)
            assert _at(model.of_work(work), at) == pytest.approx(model.of_work(alone), rel=1e-12)
            assert _at(work_seconds(work, profile), at) == pytest.approx(work_seconds(alone, profile), rel=1e-12)


def _at(counts: Any, rank: int) -> Any:
    return np.broadcast_to(counts, 3)[rank]


@pytest.mark.parametrize("batch", [1, 3])
def test_images_grow_with_the_batch_and_weights_do_not(batch: int) -> None:
    one, more = (work_of(forms()["folded-1-2"], size) for size in (1, batch))
    assert [conv.images for conv in more.convs] == [batch * conv.images for conv in one.convs]
    assert more.transposes == tuple(batch * elements for elements in one.transposes)
    weights = [conv.groups * conv.inputs * conv.outputs * conv.kernel for conv in one.convs]
    for conv, other, weight in zip(more.convs, one.convs, weights, strict=True):
        assert conv.moved - weight == batch * (other.moved - weight)


def test_text_gives_back_what_was_written() -> None:
    for form in forms().values():
        assert read_work(work_text(work_of(form, 2))) == work_of(form, 2)
    assert read_work(work_text(Work((), (), (3,)))) == Work((), (), (3,))
