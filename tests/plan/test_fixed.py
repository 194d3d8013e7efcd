"""Sites whose factors are given: the fastest form for them, and goals that the other sites have to meet."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from kronexport.backends.profile import TargetProfile, load_target
from kronexport.errors import GoalError
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.factorize.scan import ErrorScan
from kronexport.lower.forms import generate_forms
from kronexport.plan.choose import dense_plan, make_plan
from kronexport.plan.cost_model import roofline_model
from kronexport.plan.fixed import ChosenForm, form_by_estimate, keep, plan_around
from kronexport.plan.goals import Goal, parse_goal
from kronexport.plan.roofline import form_seconds
from kronexport.records import Plan, Site, Structure, Survey, silent
from tests.plan.samples import site, surveyed

FIRST, SECOND = site("first", 64, 64), site("second", 64, 48)
SURVEY = surveyed(FIRST, SECOND)
LEAN = gkpd_structure((64, 1, 1, 1), (1, 64, 3, 3), 8)


@pytest.fixture(scope="module")
def profile() -> TargetProfile:
    return load_target("cpu")


def plan(profile: TargetProfile, *goals: str) -> Plan:
    weight = np.random.default_rng(0).standard_normal(SECOND.weight_shape)
    scan = ErrorScan({"second": weight})

    def make(survey: Survey, asked: Sequence[Goal]) -> Plan:
        return make_plan(survey, scan, asked, profile, silent)

    form_of = partial(form_by_estimate, roofline_model(profile).seconds)
    return plan_around(SURVEY, {"first": LEAN}, list(map(parse_goal, goals)), profile, make=make, form_of=form_of)


def total(found: Plan, name: str) -> int:
    return 1000 + sum(int(getattr(choice, name)) for choice in found.sites)


def test_without_goals_only_the_form_is_chosen(profile: TargetProfile) -> None:
    """The fastest by the roofline; the other site stays dense."""
    first, second = plan(profile).sites
    times = {form.name: form_seconds(form, profile) for form in generate_forms(LEAN, FIRST.geometry, (14, 14))}
    assert first.lowering == min(times, key=lambda name: times[name])
    assert (first.structure, first.params, first.rel_error) == (LEAN, LEAN.params + 64, 0.0)
    assert second == dense_plan(SURVEY, profile).sites[1]


def test_dense_is_a_form_of_factors_that_do_not_pay(profile: TargetProfile) -> None:
    full = gkpd_structure((64, 1, 1, 1), (1, 64, 3, 3), 64)
    assert keep(FIRST, full, partial(form_by_estimate, roofline_model(profile).seconds)).lowering == "dense"


@pytest.mark.parametrize("goals", [("params<=0.3",), ("macs<=0.3",), ("params<=20k",), ("params<=0.4", "macs<=0.35")])
def test_goals_are_those_of_the_whole_network(profile: TargetProfile, goals: Sequence[str]) -> None:
    """A ratio is one to the dense network, although the fixed site is smaller already."""
    found = plan(profile, *goals)
    assert found.sites[0].structure == LEAN
    assert found.sites[1].structure is not None
    for goal in map(parse_goal, goals):
        limit = goal.number * (getattr(SURVEY, goal.name) if goal.scale is None else goal.scale)
        assert total(found, goal.name) <= limit


def test_a_goal_that_the_fixed_sites_meet_leaves_the_others_dense(profile: TargetProfile) -> None:
    assert list(plan(profile, "params<=0.7", "size<=0.9").structures) == ["first"]


def test_a_goal_out_of_reach_says_the_least_of_the_whole_network(profile: TargetProfile) -> None:
    """To which the fixed site counts as it is."""
    with pytest.raises(GoalError, match=r"cannot be met: the least that .* allow is \d+") as caught:
        plan(profile, "params<=0.05")
    least = int(str(caught.value).partition("allow is ")[2].partition(" ")[0])
    assert least > 1000 + LEAN.params


@pytest.mark.parametrize(("seconds", "basis"), [(1e-3, "measured"), (None, "roofline")])
def test_a_plan_rests_on_what_the_forms_of_fixed_sites_were_chosen_by(
    profile: TargetProfile, seconds: float | None, basis: str
) -> None:
    """And on both where the other sites are planned otherwise; the seconds are for the report."""

    def form_of(site: Site, structure: Structure) -> ChosenForm:
        form = form_by_estimate(roofline_model(profile).seconds, site, structure).form
        return ChosenForm(form, seconds, seconds and 2 * seconds)

    def make(survey: Survey, _goals: Sequence[Goal]) -> Plan:
        return dense_plan(survey, profile)

    around = partial(plan_around, SURVEY, {"first": LEAN}, profile=profile, make=make, form_of=form_of)
    alone, beside = around([]), around([parse_goal("params<=0.9")])
    assert (alone.basis, alone.sites[0].seconds, alone.sites[0].dense_seconds) == (
        basis,
        seconds,
        seconds and 2 * seconds,
    )
    assert beside.basis == ("mixed" if seconds else "roofline")


def test_a_plan_says_how_many_given_factors_were_not_timed_in_time(profile: TargetProfile) -> None:
    """Its basis is mixed, although every form goes by an estimate."""

    def form_of(site: Site, structure: Structure) -> ChosenForm:
        return ChosenForm(generate_forms(structure, site.geometry, site.input_size)[1], None, 1e-3, is_cut_short=True)

    def make(survey: Survey, _goals: Sequence[Goal]) -> Plan:
        return replace(dense_plan(survey, profile), notes=("of the others",))

    found = plan_around(SURVEY, {"first": LEAN}, [parse_goal("params<=0.9")], profile, make=make, form_of=form_of)
    assert found.basis == "mixed"
    assert found.notes == (
        "the time budget was spent before all was timed: 1 of 1 layers with given factors go by estimates",
        "of the others",
    )
    alone = plan_around(surveyed(FIRST), {"first": LEAN}, [], profile, make=make, form_of=form_of)
    assert (alone.basis, alone.notes) == ("mixed", found.notes[:1])


def test_a_plan_says_how_many_layers_do_not_ship_their_factors(profile: TargetProfile) -> None:
    """Params are those of the factors all the same."""
    full = gkpd_structure((64, 1, 1, 1), (1, 64, 3, 3), 64)
    form_of = partial(form_by_estimate, roofline_model(profile).seconds)

    def make(_survey: Survey, _goals: Sequence[Goal]) -> Plan:
        pytest.fail("no goal asks for anything")

    around = partial(plan_around, SURVEY, goals=[], profile=profile, make=make, form_of=form_of)
    found = around({"first": full, "second": gkpd_structure((64, 1, 1, 1), (1, 48, 3, 3), 8)})
    assert [choice.lowering == "dense" for choice in found.sites] == [True, False]
    assert found.sites[0].params == full.params + 64
    (note,) = found.notes
    assert note.startswith("1 of 2 layers with factors run by their dense weight")
    assert "another lowering in plan.toml" in note
    assert around({"first": LEAN}).notes == ()


def test_a_network_whose_sites_are_all_fixed_is_judged_later(profile: TargetProfile) -> None:
    """There is nothing to plan, whatever the goal."""

    def make(_survey: Survey, _goals: Sequence[Goal]) -> Plan:
        pytest.fail("nothing is left to plan")

    form_of, goals = partial(form_by_estimate, roofline_model(profile).seconds), [parse_goal("params<=0.001")]
    found = plan_around(surveyed(FIRST), {"first": LEAN}, goals, profile, make=make, form_of=form_of)
    assert found.structures == {"first": LEAN}
