"""Plans by measured time: what is chosen was timed, and what is slow in fact is passed over."""

import logging
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from kronexport.backends.profile import load_target
from kronexport.errors import GoalError
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.factorize.scan import ErrorScan
from kronexport.lower.forms import DENSE, Form
from kronexport.measure.costs import FormTimes
from kronexport.measure.micro import Trial
from kronexport.plan import measured
from kronexport.plan.accuracy import planned_error
from kronexport.plan.candidates import all_candidates
from kronexport.plan.choose import Steering, dense_plan
from kronexport.plan.cost_model import roofline_model
from kronexport.plan.fixed import form_by_estimate
from kronexport.plan.goals import parse_goal
from kronexport.plan.measured import Menu, form_by_clock, measured_plan, ranked_forms, untimed, with_times, worth_timing
from kronexport.plan.roofline import form_seconds
from kronexport.records import ConvGeometry, Plan, Site, Survey, silent

PROFILE = load_target("cpu")
MODEL = roofline_model(PROFILE)
SECONDS = MODEL.seconds
GEOMETRY = ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1))


def site(name: str, filters: int, channels: int) -> Site:
    weight = filters * channels * 9
    return Site(
        name=name,
        batch=1,
        in_channels=channels,
        out_channels=filters,
        geometry=GEOMETRY,
        input_size=(14, 14),
        output_size=(14, 14),
        has_bias=False,
        params=weight,
        macs=weight * 14 * 14,
        share=0.5,
        has_norm=True,
        activation="Relu",
    )


SITES = site("wide", 32, 32), site("narrow", 16, 24)
SURVEY = Survey(SITES, (), sum(one.params for one in SITES), sum(one.macs for one in SITES))


def estimate(trial: Trial) -> float:
    return form_seconds(trial.form, PROFILE)


class Clock:
    """A double of ``measure_forms`` by a function of the trial; None sets it aside.

    Time is up after ``reach`` trials.
    """

    def __init__(self, seconds: Callable[[Trial], float | None], reach: int = 100_000) -> None:
        self.seconds = seconds
        self.reach = reach
        self.timed: set[Trial] = set()
        self.calls = 0

    def __call__(self, trials: Sequence[Trial]) -> FormTimes:
        self.calls += 1
        assert not self.timed.intersection(trials)
        reached = trials[: self.reach]
        self.reach -= len(reached)
        self.timed.update(reached)
        found = {trial: self.seconds(trial) for trial in reached}
        return FormTimes(
            {trial: seconds for trial, seconds in found.items() if seconds is not None},
            {trial: "not implemented" for trial, seconds in found.items() if seconds is None},
            tuple(trials[len(reached) :]),
        )


def menus() -> list[Menu]:
    generator = np.random.default_rng(0)
    scan = ErrorScan({one.name: generator.standard_normal(one.weight_shape) for one in SITES})
    candidates = all_candidates(SITES, scan, MODEL, silent)
    return [Menu(one, tuple(options), SECONDS) for one, options in zip(SITES, candidates, strict=True)]


def plan(clock: Clock, *goals: str, known: list[Menu] | None = None) -> Plan:
    return measured_plan(SURVEY, known or menus(), list(map(parse_goal, goals)), PROFILE, clock=clock)


def seconds(clock: Clock, found: Plan) -> float:
    by_name = {
        (trial.form.structure, trial.form.name): clock.seconds(trial)
        for trial in clock.timed
        if trial.form.name != DENSE
    }
    assert all(choice.structure is not None for choice in found.sites)
    return sum(by_name[choice.structure, choice.lowering] or 0 for choice in found.sites if choice.structure)


def test_a_plan_tells_the_time_of_each_layer_that_was_timed() -> None:
    """Dense and as planned; a layer that is dense has one time twice, one with Convs in float has none."""
    clock, known = Clock(estimate), menus()
    found = plan(clock, "macs<=0.4", known=known)
    told = with_times(found, known)
    assert told == found
    assert sum(choice.seconds or 0 for choice in told.sites) == pytest.approx(seconds(clock, found))
    for one, choice in zip(SITES, told.sites, strict=True):
        assert choice.dense_seconds == estimate(Trial.left_dense(one))
    dense = with_times(dense_plan(SURVEY, PROFILE), known)
    assert all(choice.seconds == choice.dense_seconds is not None for choice in dense.sites)
    assert all(choice.seconds is choice.dense_seconds is None for choice in map(untimed, told.sites))
    assert with_times(found, menus()).sites[0].seconds is None


def test_all_that_is_chosen_was_timed_with_its_surroundings() -> None:
    """Norm and activation stand beside each form; the goal is met."""
    clock = Clock(estimate)
    found = plan(clock, "macs<=0.4")
    assert found.basis == "measured"
    assert seconds(clock, found) > 0
    assert sum(choice.macs for choice in found.sites) <= 0.4 * SURVEY.macs
    assert all(trial.has_norm and trial.activation == "Relu" for trial in clock.timed)
    assert clock.calls < measured.ROUNDS


def test_what_is_slow_in_fact_is_passed_over() -> None:
    """What the estimates favour is ten times slower than dense on the second clock, at whatever rank."""
    favoured = {str(choice.structure) for choice in plan(Clock(estimate), "macs<=0.4").sites}

    def in_fact(trial: Trial) -> float:
        return estimate(trial) if str(trial.form.structure) not in favoured else 10 * estimate(trial.dense)

    assert favoured.isdisjoint(str(choice.structure) for choice in plan(Clock(in_fact), "macs<=0.4").sites)


def test_nothing_is_timed_for_a_gain_that_noise_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan is then one of what was timed."""

    def in_fact(trial: Trial) -> float:
        """Other than expected at every rank."""
        return estimate(trial) * (1.0 if trial.form.name == DENSE else 1 + trial.form.structure.ranks[0] % 7 / 10)

    thorough, easy = Clock(in_fact), Clock(in_fact)
    monkeypatch.setattr(measured, "LEAST_GAIN", -1.0)
    plan(thorough, "macs<=0.4")
    monkeypatch.setattr(measured, "LEAST_GAIN", 10.0)
    found = plan(easy, "macs<=0.4")
    assert len(easy.timed) < len(thorough.timed)
    assert found.basis == "measured"
    assert seconds(easy, found) > 0
    assert sum(choice.macs for choice in found.sites) <= 0.4 * SURVEY.macs


def test_what_all_timed_structures_of_a_layer_take_is_expected_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Estimates that flatter all of them are found out by a few: with hope for each, rounds are over before."""

    def within_half(clock: Clock) -> float:
        steering = Steering({"seconds": 0.5})
        return planned_error(measured_plan(SURVEY, menus(), [], PROFILE, clock=clock, steering=steering))

    def in_fact(trial: Trial) -> float:
        return estimate(trial) * (1 if trial.form.name == DENSE else 3)

    usual, hopeful = Clock(in_fact), Clock(in_fact)
    error = within_half(usual)
    monkeypatch.setattr(measured, "HOPE", 0.0)
    assert error <= within_half(hopeful)
    assert usual.calls <= measured.ROUNDS / 2 < measured.ROUNDS <= hopeful.calls
    assert len(usual.timed) < len(hopeful.timed) / 2


def test_the_fastest_form_of_a_structure_is_taken() -> None:
    """Here those whose name ends in the first factor, whatever their estimate."""
    clock = Clock(lambda trial: 1e-3 if trial.form.name == DENSE else 1e-4 if trial.form.name.endswith("2-1") else 5e-4)
    assert all(choice.lowering.endswith("2-1") for choice in plan(clock, "macs<=0.4", "latency<=0.2").sites)


def test_forms_that_the_runtime_does_not_run_are_set_aside_and_told(caplog: pytest.LogCaptureFixture) -> None:
    """The plan goes on with the others."""
    clock = Clock(lambda trial: None if trial.form.name.endswith("2-1") else estimate(trial))
    with caplog.at_level(logging.WARNING, "kronexport"):
        found = plan(clock, "macs<=0.4")
    assert found.basis == "measured"
    assert not any(choice.lowering.endswith("2-1") for choice in found.sites)
    assert "a form is set aside, since the runtime does not run it: " in caplog.text
    assert "not implemented" in caplog.text


def test_where_nothing_pays_the_goal_is_met_all_the_same() -> None:
    """Slower than dense, which the verdict will say."""
    clock = Clock(lambda trial: 1e-4 if trial.form.name == DENSE else 1e-3)
    found = plan(clock, "macs<=0.4")
    assert sum(choice.macs for choice in found.sites) <= 0.4 * SURVEY.macs


def test_when_the_solver_does_not_settle_what_was_timed_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "ROUNDS", 1)
    clock = Clock(estimate)
    found = plan(clock, "macs<=0.4")
    assert found.basis == "measured"
    assert seconds(clock, found) > 0


def test_a_site_without_a_time_for_dense_goes_by_the_roofline() -> None:
    """It is factorized all the same."""
    clock = Clock(lambda trial: None if trial.form.name == DENSE else estimate(trial))
    found = plan(clock, "macs<=0.4")
    assert sum(choice.macs for choice in found.sites) <= 0.4 * SURVEY.macs


def test_a_goal_out_of_reach_is_refused_before_anything_is_timed() -> None:
    clock = Clock(estimate)
    with pytest.raises(GoalError, match="cannot be met"):
        plan(clock, "macs<=0.0001")
    assert clock.calls == 0


def test_factors_that_are_given_run_in_their_fastest_form() -> None:
    """By the clock; by estimates where the runtime runs none of the forms."""
    structure = gkpd_structure((32, 1, 1, 1), (1, 32, 3, 3), 4)

    def slow_but(name: str) -> Clock:
        return Clock(lambda trial: 1e-4 if trial.form.name == name else 1e-3)

    for name in (DENSE, *(form.name for form in worth_timing(structure, SITES[0], SECONDS))):
        found = form_by_clock(slow_but(name), SECONDS, SITES[0], structure)
        assert found.form.name == name
        assert found.seconds is not None
        assert found.dense_seconds is not None
        assert found.seconds <= found.dense_seconds
    chosen = form_by_clock(Clock(lambda _trial: None), SECONDS, SITES[0], structure)
    assert chosen == form_by_estimate(SECONDS, SITES[0], structure)


def test_given_factors_go_by_estimates_where_time_is_up() -> None:
    """In the light of dense's time, which the store knew; what else was measured is compared with them."""
    structure = gkpd_structure((32, 1, 1, 1), (1, 32, 3, 3), 4)
    best = form_by_estimate(SECONDS, SITES[0], structure).form
    assert best.name != DENSE
    for reach in (0, 1):
        found = form_by_clock(Clock(lambda trial: 7 * estimate(trial), reach), SECONDS, SITES[0], structure)
        assert (found.form, found.seconds, found.is_cut_short, found.basis) == (best, None, True, "mixed")
        assert (found.dense_seconds is None) is (reach == 0)
    clock = Clock(lambda trial: estimate(trial) / (100 if trial.form.name == DENSE else 1), reach=2)
    found = form_by_clock(clock, SECONDS, SITES[0], structure)
    assert (found.form.name, found.is_cut_short, found.basis) == (DENSE, False, "measured")


def test_what_was_learnt_for_one_plan_serves_the_next() -> None:
    """The clock, which refuses to time a form twice, is asked for what is new alone."""
    known, clock = menus(), Clock(estimate)
    first = plan(clock, "macs<=0.4", known=known)
    calls = clock.calls
    assert plan(clock, "macs<=0.4", known=known) == first
    assert clock.calls == calls
    plan(clock, "macs<=0.3", known=known)
    assert clock.calls > calls


def test_forms_that_are_far_from_the_best_by_estimate_are_not_timed() -> None:
    """Nor more than ``FORMS`` of a structure; the best is."""
    structure = gkpd_structure((4, 4, 1, 1), (8, 8, 3, 3), 1)
    ranked = ranked_forms(structure, SITES[0], SECONDS)
    least = SECONDS(ranked[0], 1)

    def steep(form: Form, _batch: int) -> float:
        return least * 2.0 ** [one.name for one in ranked].index(form.name)

    assert [form.name for form in worth_timing(structure, SITES[0], steep)] == [form.name for form in ranked[:2]]
    assert len(worth_timing(structure, SITES[0], lambda _form, _batch: least)) == min(measured.FORMS, len(ranked))
    assert worth_timing(structure, SITES[0], SECONDS)[0] == ranked[0]


# --- a time budget --------------------------------------------------------------------------------------------


def test_when_time_is_up_at_once_the_plan_goes_by_estimates() -> None:
    """The goal is met all the same, and the report is told."""
    clock = Clock(estimate, reach=0)
    found = plan(clock, "macs<=0.4")
    assert (found.basis, clock.calls) == ("mixed", 2)
    assert found.notes == ("the time budget was spent before all was timed: 2 of 2 layers go by estimates",)
    assert sum(choice.macs for choice in found.sites) <= 0.4 * SURVEY.macs


def test_layers_that_stay_dense_go_by_estimates_too_when_time_is_up_at_once() -> None:
    """Nothing else is to be timed for such a plan, and still it does not rest on measurement."""
    found = plan(Clock(estimate, reach=0), "macs<=1")
    assert not found.structures
    assert found.basis == "mixed"
    assert found.notes == ("the time budget was spent before all was timed: 2 of 2 layers go by estimates",)
    found = plan(Clock(estimate, reach=1), "macs<=1")
    assert found.notes == ("the time budget was spent before all was timed: 1 of 2 layers go by estimates",)


def test_what_was_timed_before_counts() -> None:
    """What was found to be slow is not chosen; another structure goes by its estimate."""
    slow = Clock(lambda trial: estimate(trial) * (1 if trial.form.name == DENSE else 50), reach=4)
    found = plan(slow, "macs<=0.4")
    timed = {trial.form.structure for trial in slow.timed if trial.form.name != DENSE}
    assert timed
    assert found.basis == "mixed"
    assert timed.isdisjoint(choice.structure for choice in found.sites)


def test_a_budget_that_is_not_spent_changes_nothing() -> None:
    found, unlimited = plan(Clock(estimate, reach=10_000), "macs<=0.4"), plan(Clock(estimate), "macs<=0.4")
    assert found == unlimited
    assert found.notes == ()
