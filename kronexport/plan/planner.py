"""The stage ``plan``: what becomes of every site on one target, by goals or by the user's own plan."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kronexport.backends.profile import TargetProfile
from kronexport.factorize.scan import ErrorScan
from kronexport.plan.choose import make_plan
from kronexport.plan.fixed import plan_around
from kronexport.plan.goals import DEFAULT_GOALS, Goal, parse_goal
from kronexport.plan.measured import Clock, measured_plan
from kronexport.records import Plan, ProgressCallback, Structure, Survey

Clocks = Callable[[TargetProfile, ProgressCallback], Clock | None]
"""What times forms on a target; None: it cannot be measured here, and its roofline serves."""


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
    clocks: Clocks

    def goals_of(self, profile: TargetProfile) -> tuple[Goal, ...]:
        """The goals that the target is judged by: the default ones only where all is left to the planner."""
        if self.goals or self.fixed or self.is_given(profile):
            return self.goals
        return tuple(map(parse_goal, DEFAULT_GOALS))

    def needs_scan(self, profile: TargetProfile) -> bool:
        """Whether the target's plan weighs structures against each other."""
        return bool(self.goals_of(profile)) and not self.is_given(profile)

    def plan(self, profile: TargetProfile, progress: ProgressCallback) -> Plan:
        """The target's plan.

        Raises:
            GoalError: no choice meets the goals; the message says the least that is reachable.
        """
        if self.given is not None and self.is_given(profile):
            return self.given
        clock = self.clocks(profile, progress)

        def make(survey: Survey, goals: Sequence[Goal]) -> Plan:
            if clock is None:
                return make_plan(survey, self.scan, goals, profile, progress)
            return measured_plan(survey, self.scan, goals, profile, clock=clock, progress=progress)

        goals = self.goals_of(profile)
        return plan_around(self.survey, self.fixed, goals, profile, make) if self.fixed else make(self.survey, goals)

    def is_given(self, profile: TargetProfile) -> bool:
        """Whether the user's plan is for this target."""
        return self.given is not None and self.given.target == profile.name
