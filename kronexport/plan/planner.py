"""The stage ``plan``: what becomes of every site on one target, by goals or by the user's own plan."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from kronexport.plan.goals import DEFAULT_GOALS, Goal, budget, for_floats, parse_goal
from kronexport.plan.guard import guarded_plan
from kronexport.plan.in_context import PlanAt, goals_met, tuned_plan
from kronexport.plan.kept import KeptPlans
from kronexport.plan.measured import Clock, Menu, form_by_clock, measured_plan, with_times
from kronexport.plan.pareto import pareto_front
from kronexport.plan.reasons import with_reasons
from kronexport.plan.rehearsal import Rehearsal
from kronexport.records import FLOAT_BYTES, ParetoPoint, Plan, Precision, ProgressCallback, Site, Structure, Survey

log = logging.getLogger("kronexport")


@dataclass(frozen=True, slots=True)
class Instruments:
    """What times forms, and whole networks, on a target that can be measured.

    Attributes:
        model: says which forms to time.
        clock: times forms.
        rehearsal: times whole networks.
        kept: has the plans that were made with these.
    """

    model: CostModel
    clock: Clock
    rehearsal: Rehearsal
    kept: KeptPlans


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
    ``precision`` is that of the networks.
    """

    survey: Survey
    scan: ErrorScan
    goals: tuple[Goal, ...]
    fixed: Mapping[str, Structure]
    given: Plan | None
    instruments_of: InstrumentsOf
    precision: Precision = "fp32"
    _dense: dict[str, Plan] = field(default_factory=dict, init=False)

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
        if not goals:
            plan = self._plan_at(profile, goals, [], instruments)(GOALS_ALONE)
            return self.with_float_steps(plan, instruments)
        make = partial(self._plan_by_goals, profile, goals, progress, error, instruments)
        if instruments is None:
            return make()
        step = profile.name if error is None else f"{profile.name} at an error of {error:.3g}"
        question = repr((self.survey, dict(self.fixed), profile, goals, self.precision, error)).encode()
        return instruments.kept.plan_of(step, question + instruments.rehearsal.network_key(), make)

    def _plan_by_goals(
        self,
        profile: TargetProfile,
        goals: Sequence[Goal],
        progress: ProgressCallback,
        error: float | None,
        instruments: Instruments | None,
    ) -> Plan:
        """As ``plan``, where there are goals and no plan is given."""
        model = instruments.model if instruments else roofline_model(profile)
        menus = self._menus(model, progress)
        plan_at = self._plan_at(profile, goals, menus, instruments)
        if error is not None:
            plan = plan_at(Steering(error=error))
        elif instruments is None:
            plan = plan_at(GOALS_ALONE)
        else:
            plan = tuned_plan(plan_at, goals, instruments.rehearsal)
        if instruments:
            plan = self._guarded(plan, goals, instruments.rehearsal)
        plan = self._with_allowed_float_steps(with_reasons(with_times(plan, menus), menus), goals, profile, instruments)
        of_machine = instruments.rehearsal.setting.machine.notes if instruments else ()
        return replace(plan, notes=(model.note, *plan.notes, *of_machine), pareto=self._front(plan, menus))

    def _free_sites(self) -> list[Site]:
        return [site for site in self.survey.sites if site.name not in self.fixed]

    def _plan_at(
        self, profile: TargetProfile, goals: Sequence[Goal], menus: Sequence[Menu], instruments: Instruments | None
    ) -> PlanAt:
        """What the solver is asked with: a choice from the menus around the layers that have factors."""
        goals = [for_floats(goal, weight_bytes(profile, self.precision)) for goal in goals]

        def plan_at(steering: Steering) -> Plan:
            def make(survey: Survey, goals: Sequence[Goal]) -> Plan:
                if instruments is None:
                    chosen = choose(survey, [menu.options for menu in menus], goals, steering=steering)
                    return plan_of(survey, chosen, profile, "roofline")
                return measured_plan(survey, menus, goals, profile, clock=instruments.clock, steering=steering)

            form_of = form_chooser(instruments, profile)
            return plan_around(self.survey, self.fixed, goals, profile, make=make, form_of=form_of)

        return plan_at

    def dense(self, profile: TargetProfile, progress: ProgressCallback) -> Plan:
        """The plan that changes nothing but the precision; the same each time."""
        if profile.name not in self._dense:
            instruments = self.instruments_of(profile, progress)
            self._dense[profile.name] = self.with_float_steps(dense_plan(self.survey, profile), instruments)
        return self._dense[profile.name]

    def with_float_steps(self, plan: Plan, instruments: Instruments | None) -> Plan:
        """In int8, ``plan`` with the Convs in float that are faster so; where nothing is timed all are quantized."""
        if instruments is None or self.precision != "int8":
            return plan
        sites, clock, rehearsal = self.survey.sites, instruments.clock, instruments.rehearsal
        return _if_timed(partial(with_float_steps, plan, sites, clock, rehearsal), plan, "all Convs are in int8")

    def _with_allowed_float_steps(
        self, plan: Plan, goals: Sequence[Goal], profile: TargetProfile, instruments: Instruments | None
    ) -> Plan:
        """As ``with_float_steps``, if all goals that were met still are: a weight in float takes more bytes."""
        better = self.with_float_steps(plan, instruments)
        heavier = [goal for goal in goals if goal.name in ("size", "memory")]
        if instruments is None or better == plan or not heavier:
            return better
        dense, rehearsal = self.dense(profile, instruments.rehearsal.progress), instruments.rehearsal

        def allowed() -> Plan:
            if _keeps(better, plan, heavier, rehearsal, dense):
                return better
            note = "all Convs are in int8: some are faster in float, and too large for the goals"
            return replace(plan, notes=(*plan.notes, note))

        return _if_timed(allowed, plan, "all Convs are in int8")

    def drop_alone(self, profile: TargetProfile) -> float | None:
        """The drop in accuracy that is allowed, where nothing else is asked for: accuracy.py finds the plan."""
        return None if self.is_given(profile) else accuracy_alone(self.goals_of(profile))

    def is_given(self, profile: TargetProfile) -> bool:
        """Whether the user's plan is for this target."""
        return self.given is not None and self.given.target == profile.name

    def _menus(self, model: CostModel, progress: ProgressCallback) -> list[Menu]:
        """What the sites without factors could become."""
        sites = self._free_sites()
        candidates = all_candidates(sites, self.scan, model, progress)
        return [Menu(site, tuple(options), model.seconds) for site, options in zip(sites, candidates, strict=True)]

    def _front(self, plan: Plan, menus: Sequence[Menu]) -> tuple[ParetoPoint, ...]:
        """What else could have been chosen, by what is known by now."""
        timed = {candidate for menu in menus if menu.is_timed for candidate in menu.timed()}
        return pareto_front(self.survey, plan, {menu.site.name: menu.candidates() for menu in menus}, timed)

    def _guarded(self, plan: Plan, goals: Sequence[Goal], rehearsal: Rehearsal) -> Plan:
        def allowed(one: Plan) -> bool:
            return all(
                _whole(self.survey, one, name) <= budget(goals, name, getattr(self.survey, name))
                for name in ("params", "macs")
            )

        def meets(one: Plan) -> bool:
            return _keeps(one, plan, goals, rehearsal)

        guarded = partial(guarded_plan, plan, self._free_sites(), allowed, meets, rehearsal)
        return _if_timed(guarded, plan, "layers that may not pay are kept")


def weight_bytes(profile: TargetProfile, precision: Precision) -> int:
    """Of one weight in the model.onnx of a target: TensorRT is given float ones in int8, behind a Q/DQ pair."""
    if precision == "int8" and profile.backend != "tensorrt":
        return 1
    return 2 if precision == "fp16" else FLOAT_BYTES


def _if_timed(better: Callable[[], Plan], plan: Plan, otherwise: str) -> Plan:
    """What rehearsals make of ``plan``; itself, with a warning, where the networks cannot be timed."""
    try:
        return better()
    except KronexportError as error:
        if type(error) is not KronexportError:  # the user's to mend
            raise
        log.warning("%s, since the networks could not be timed: %s", otherwise, error)
        return plan


def _keeps(one: Plan, before: Plan, goals: Sequence[Goal], rehearsal: Rehearsal, dense: Plan | None = None) -> bool:
    """Whether ``one`` meets whatever ``before`` meets; what that misses it may go on to miss."""
    met, then = (goals_met(plan, goals, rehearsal, dense) for plan in (one, before))
    return all(now or not earlier for now, earlier in zip(met, then, strict=True))


def _whole(survey: Survey, plan: Plan, name: str) -> int:
    """Params or MACs of the network as planned."""
    saved = sum(getattr(site, name) for site in survey.sites) - sum(getattr(choice, name) for choice in plan.sites)
    return int(getattr(survey, name) - saved)
