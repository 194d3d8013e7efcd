"""The stage ``plan``: what becomes of every site on one target, by goals or by the user's own plan."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from kronexport.backends.profile import TargetProfile
from kronexport.errors import KronexportError
from kronexport.factorize.scan import ErrorScan
from kronexport.plan.accuracy import accuracy_alone
from kronexport.plan.candidates import all_candidates
from kronexport.plan.choose import GOALS_ALONE, Steering, choose, dense_plan, plan_of
from kronexport.plan.cost_model import CostModel, roofline_model
from kronexport.plan.fixed import FormOf, form_by_estimate, plan_around
from kronexport.plan.float_steps import with_float_steps
from kronexport.plan.goals import DEFAULT_GOALS, Goal, budget, judge, parse_goal
from kronexport.plan.guard import guarded_plan
from kronexport.plan.in_context import tuned_plan
from kronexport.plan.measured import Clock, Menu, form_by_clock, measured_plan
from kronexport.plan.pareto import pareto_front
from kronexport.plan.rehearsal import Rehearsal
from kronexport.records import ParetoPoint, Plan, ProgressCallback, Structure, Survey

log = logging.getLogger("kronexport")

_IN_CONTEXT = ("latency", "size", "memory")
"""Goals of which only a rehearsal says what a layer that goes back to dense does to them."""


@dataclass(frozen=True, slots=True)
class Instruments:
    """What times forms, and whole networks, on a target that is this machine; ``model`` says which forms to time."""

    model: CostModel
    clock: Clock
    rehearsal: Rehearsal


InstrumentsOf = Callable[[TargetProfile, ProgressCallback], Instruments | None]
"""None: the target cannot be measured here, and its roofline serves."""


def form_chooser(instruments: Instruments | None, profile: TargetProfile) -> FormOf:
    """What says the fastest form of a structure: measured where the target is this machine."""
    if instruments is None:
        return partial(form_by_estimate, roofline_model(profile).seconds)
    return partial(form_by_clock, instruments.clock, instruments.model.seconds)


@dataclass(frozen=True, slots=True)
class Planner:
    """All that plans rest on, for every target of a build.

    ``scan`` has the weight errors of the sites without factors. ``goals`` are the user's own. ``fixed`` holds the
    structures of the sites that have factors already, ``given`` the plan that the user gave for one target.
    """

    survey: Survey
    scan: ErrorScan
    goals: tuple[Goal, ...]
    fixed: Mapping[str, Structure]
    given: Plan | None
    instruments_of: InstrumentsOf

    def goals_of(self, profile: TargetProfile) -> tuple[Goal, ...]:
        """The goals that the target is judged by: the default ones only where all is left to the planner."""
        if self.goals or self.fixed or self.is_given(profile):
            return self.goals
        return tuple(map(parse_goal, DEFAULT_GOALS))

    def needs_scan(self, profile: TargetProfile) -> bool:
        """Whether the target's plan weighs structures against each other."""
        return bool(self.goals_of(profile)) and not self.is_given(profile)

    def plan(self, profile: TargetProfile, progress: ProgressCallback, error: float | None = None) -> Plan:
        """The target's plan: by goals it is rehearsed and guarded where the target is this machine.

        Args:
            profile: of the target.
            progress: told (stage, done, total).
            error: what ``planned_error`` of the plan may be; the fastest plan within it is wanted.

        Raises:
            GoalError: no choice meets the goals; the message says the least that is reachable.
        """
        instruments = self.instruments_of(profile, progress)
        if self.given is not None and self.is_given(profile):
            return self.with_float_steps(self.given, instruments)
        goals = self.goals_of(profile)
        model = instruments.model if instruments else roofline_model(profile)
        menus = self._menus(model, progress) if goals else []

        def plan_at(steering: Steering) -> Plan:
            def make(survey: Survey, goals: Sequence[Goal]) -> Plan:
                if instruments is None:
                    chosen = choose(survey, [menu.options for menu in menus], goals, steering=steering)
                    return plan_of(survey, chosen, profile, "roofline")
                return measured_plan(survey, menus, goals, profile, clock=instruments.clock, steering=steering)

            form_of = form_chooser(instruments, profile)
            return plan_around(self.survey, self.fixed, goals, profile, make=make, form_of=form_of)

        if not goals:
            plan = plan_at(GOALS_ALONE)
            plan = replace(plan, basis="measured") if instruments and self.fixed else plan
            return self.with_float_steps(plan, instruments)
        if error is not None:
            plan = plan_at(Steering(error=error))
        elif instruments is None:
            plan = plan_at(GOALS_ALONE)
        else:
            plan = tuned_plan(plan_at, goals, instruments.rehearsal)
        if instruments:
            plan = self._guarded(plan, goals, instruments.rehearsal)
        plan = self.with_float_steps(plan, instruments)
        return replace(plan, notes=(model.note, *plan.notes), pareto=self._front(plan, menus))

    def dense(self, profile: TargetProfile, progress: ProgressCallback) -> Plan:
        """The plan that changes nothing but the precision."""
        return self.with_float_steps(dense_plan(self.survey, profile), self.instruments_of(profile, progress))

    def with_float_steps(self, plan: Plan, instruments: Instruments | None) -> Plan:
        """In int8, ``plan`` with the Convs in float that are faster so; where nothing is timed all are quantized."""
        if instruments is None or instruments.rehearsal.precision != "int8":
            return plan
        return with_float_steps(plan, self.survey.sites, instruments.clock)

    def drop_alone(self, profile: TargetProfile) -> float | None:
        """The drop in accuracy that is allowed, where nothing else is asked for: accuracy.py finds the plan."""
        return None if self.is_given(profile) else accuracy_alone(self.goals_of(profile))

    def is_given(self, profile: TargetProfile) -> bool:
        """Whether the user's plan is for this target."""
        return self.given is not None and self.given.target == profile.name

    def _menus(self, model: CostModel, progress: ProgressCallback) -> list[Menu]:
        """What the sites without factors could become."""
        sites = [site for site in self.survey.sites if site.name not in self.fixed]
        candidates = all_candidates(sites, self.scan, model, progress)
        return [Menu(site, tuple(options), model.seconds) for site, options in zip(sites, candidates, strict=True)]

    def _front(self, plan: Plan, menus: Sequence[Menu]) -> tuple[ParetoPoint, ...]:
        """What else could have been chosen, by what is known by now."""
        timed = {candidate for menu in menus if menu.is_timed for candidate in menu.timed()}
        return pareto_front(self.survey, plan, {menu.site.name: menu.candidates() for menu in menus}, timed)

    def _guarded(self, plan: Plan, goals: Sequence[Goal], rehearsal: Rehearsal) -> Plan:
        in_context = [goal for goal in goals if goal.name in _IN_CONTEXT]

        def allowed(one: Plan) -> bool:
            return all(
                _whole(self.survey, one, name) <= budget(goals, name, getattr(self.survey, name))
                for name in ("params", "macs")
            )

        def met(one: Plan) -> list[bool]:
            found = rehearsal.against_dense(one, memory=any(goal.name == "memory" for goal in in_context))
            return [judge(goal, found.dense, found.planned, found.speedup).met is not False for goal in in_context]

        def meets(one: Plan) -> bool:
            """Whatever the plan meets; what it misses it may go on to miss."""
            return not in_context or all(now or not before for now, before in zip(met(one), met(plan), strict=True))

        sites = [site for site in self.survey.sites if site.name not in self.fixed]
        try:
            return guarded_plan(plan, sites, allowed, meets, rehearsal)
        except KronexportError as error:
            if type(error) is not KronexportError:  # the user's to mend
                raise
            log.warning("layers that may not pay are kept, since the networks could not be timed: %s", error)
            return plan


def _whole(survey: Survey, plan: Plan, name: str) -> int:
    """Params or MACs of the network as planned."""
    saved = sum(getattr(site, name) for site in survey.sites) - sum(getattr(choice, name) for choice in plan.sites)
    return int(getattr(survey, name) - saved)
