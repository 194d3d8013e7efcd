"""A plan that the user gives: it fits the model, or the message says what would."""

from functools import partial
from typing import Any

import pytest

from kronexport.backends.profile import load_target
from kronexport.errors import UserInputError
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.lower.forms import generate_forms
from kronexport.plan.cost_model import roofline_model
from kronexport.plan.fixed import form_by_estimate
from kronexport.plan.given import given_plan
from kronexport.plan.plan_file import PlanFile, SiteTable
from kronexport.records import Plan, Structure
from tests.plan.samples import site, surveyed
from tests.strategies import METHOD_STRUCTURES

CONV = site("conv", 6, 6)
GROUPED = site("grouped", 6, 12, group=2)
SURVEY = surveyed(CONV, GROUPED)
FORM_OF = partial(form_by_estimate, roofline_model(load_target("cpu")).seconds)
PAIR = gkpd_structure((6, 1, 1, 1), (1, 6, 3, 3), 2)


def table(structure: Structure, **changed: Any) -> SiteTable:
    values: dict[str, Any] = {
        "name": "conv",
        "method": structure.method,
        "factors": [{"rank_axes": factor.rank_axes, "size": list(factor.size)} for factor in structure.factors],
        "ranks": list(structure.ranks),
        "lowering": "grouped-2-1",
    }
    return SiteTable.model_validate({**values, **changed})


def planned(*tables: SiteTable, fixed: dict[str, Structure] | None = None) -> Plan:
    return given_plan(
        PlanFile(version=1, target="cpu", site=tables),
        SURVEY,
        fixed or {},
        FORM_OF,
    )


@pytest.mark.parametrize("structure", METHOD_STRUCTURES, ids=lambda structure: structure.method)
def test_every_method_is_taken(structure: Structure) -> None:
    """With the cost of its form; the site that is not named stays dense, and the alias is resolved."""
    form = generate_forms(structure, CONV.geometry, CONV.input_size)[1]
    plan = planned(table(structure, lowering=form.name))
    conv, grouped = plan.sites
    assert (plan.target, plan.basis) == ("x86-onnxruntime", "given")
    assert (conv.site, conv.structure, conv.lowering, conv.rel_error) == ("conv", structure, form.name, None)
    assert (conv.params, conv.macs) == (structure.params + 6, form.macs)
    assert (grouped.structure, grouped.lowering, grouped.params) == (None, "dense", GROUPED.params)


def test_a_lowering_left_out_is_chosen() -> None:
    from_file = planned(table(PAIR, lowering=None)).sites[0].lowering
    assert from_file in {form.name for form in generate_forms(PAIR, CONV.geometry, CONV.input_size)}


def test_factors_that_run_by_their_dense_weight_are_told() -> None:
    (note,) = planned(table(PAIR, lowering="dense")).notes
    assert note.startswith("1 of 1 layers with factors run by their dense weight")
    assert planned(table(PAIR)).notes == ()


def test_dense_is_a_choice() -> None:
    """Also of a layer that stays so anyway."""
    plan = planned(SiteTable(name="conv", method="dense"), SiteTable(name="dw", method="dense"))
    assert plan.structures == {}
    assert len(plan.sites) == 2


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"name": "cnov"}, ("site cnov: is no layer that can be factorized", "did you mean 'conv'?")),
        ({"name": "dw"}, ("site dw: is depthwise; expected method = 'dense'",)),
        ({"method": "gkdp"}, ("site conv: method: got 'gkdp'; did you mean 'gkpd'?",)),
        ({"method": "dense"}, ("site conv: method: got 'dense' with factors", "gkpd, sekron")),
        ({"method": "sekron", "ranks": [7]}, ("site conv: sekron: rank 7 of axis 'a'",)),
        ({"method": "cp", "ranks": [1, 2]}, ("2 ranks (1, 2) for 1 rank axes 'a'",)),
        ({"ranks": []}, ("0 ranks () for 1 rank axes 'a'; give one rank an axis",)),
        ({"ranks": [7]}, ("site conv: gkpd: rank 7 of axis 'a'", "at most 6 can be told apart")),
        ({"factors": []}, ("0 factor(s), expected at least 2",)),
        ({"lowering": "grouped-1-3"}, ("got 'grouped-1-3', expected one of dense, grouped-1-2, grouped-2-1",)),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(UserInputError) as caught:
        planned(table(PAIR, **changed))
    for word in words:
        assert word in str(caught.value)


def test_factors_that_make_another_weight() -> None:
    """The message has both shapes."""
    other = gkpd_structure((6, 1, 1, 1), (1, 4, 3, 3), 2)
    expected = r"site conv: factors: 6x1x1x1 \* 1x4x3x3 multiply to \(6, 4, 3, 3\), expected .* \(6, 6, 3, 3\)"
    with pytest.raises(UserInputError, match=expected):
        planned(table(other))


def test_rank_axes_that_are_not_the_method_s() -> None:
    factors = [{"rank_axes": "a", "size": [6, 1, 1, 1]}, {"rank_axes": "b", "size": [1, 6, 3, 3]}]
    with pytest.raises(UserInputError, match="factor 2 has the rank axes 'b', expected 'a': this method has a, a"):
        planned(table(PAIR, factors=factors, ranks=[2, 2]))


def test_groups_need_a_first_factor_that_says_them() -> None:
    """As docs/decisions/0005 has it."""
    assert planned(table(PAIR, name="grouped")).structures == {"grouped": PAIR}
    wrong = gkpd_structure((1, 6, 3, 3), (6, 1, 1, 1), 2)
    with pytest.raises(UserInputError, match=r"site grouped: factors: .* 2 groups: the first factor has 1 filters"):
        planned(table(wrong, name="grouped"))


def test_a_target_that_is_none() -> None:
    with pytest.raises(UserInputError, match="target 'cpuu': no such target"):
        given_plan(PlanFile(version=1, target="cpuu"), SURVEY, {}, FORM_OF)


# --- layers that hold factors already -------------------------------------------------------------------------------


def test_a_layer_with_factors_keeps_them() -> None:
    """Unnamed it gets the fastest form; named, the form that is named; as dense it is rebuilt."""
    assert planned(fixed={"conv": PAIR}).structures == {"conv": PAIR}
    named = planned(table(PAIR, lowering="dense"), fixed={"conv": PAIR}).sites[0]
    assert (named.structure, named.lowering, named.rel_error) == (PAIR, "dense", 0.0)
    assert planned(SiteTable(name="conv", method="dense"), fixed={"conv": PAIR}).structures == {}


def test_other_factors_than_the_layer_holds() -> None:
    other = gkpd_structure((6, 1, 1, 1), (1, 6, 3, 3), 3)
    with pytest.raises(
        UserInputError, match=r"site conv: .*at ranks \(3,\): the model holds factors here already, 'gkpd'"
    ):
        planned(table(other), fixed={"conv": PAIR})
