"""Whose word counts for a target: the user's plan, goals, or the default goal."""

import pytest

from kronexport.backends.profile import load_target
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.factorize.scan import ErrorScan
from kronexport.plan.choose import dense_plan
from kronexport.plan.goals import parse_goal
from kronexport.plan.planner import Planner
from kronexport.records import Plan, Structure, silent
from tests.plan.samples import site, surveyed

SURVEY = surveyed(site("conv", 16, 16))
CPU, BOARD = load_target("cpu"), load_target("jetson")
PAIR = gkpd_structure((16, 1, 1, 1), (1, 16, 3, 3), 2)


def planner(*goals: str, fixed: dict[str, Structure] | None = None, given: Plan | None = None) -> Planner:
    return Planner(
        SURVEY,
        ErrorScan({}),
        tuple(map(parse_goal, goals)),
        fixed or {},
        given,
        lambda _profile, _progress: None,
    )


def test_the_default_goal_is_for_what_is_left_to_the_planner() -> None:
    """Not for a target with a plan, and not for a model that holds factors."""
    given = planner(given=dense_plan(SURVEY, CPU))
    assert [goal.expr for goal in planner().goals_of(CPU)] == ["macs<=0.5"]
    assert given.goals_of(CPU) == ()
    assert [goal.expr for goal in given.goals_of(BOARD)] == ["macs<=0.5"]
    assert planner(fixed={"conv": PAIR}).goals_of(CPU) == ()
    assert [goal.expr for goal in planner("params<=0.5", fixed={"conv": PAIR}).goals_of(CPU)] == ["params<=0.5"]


@pytest.mark.parametrize("goals", [(), ("params<=0.5",)])
def test_a_given_plan_is_taken_as_it_is(goals: tuple[str, ...]) -> None:
    """Whatever the goals; no weight is looked at."""
    plan = dense_plan(SURVEY, CPU)
    given = planner(*goals, given=plan)
    assert given.plan(CPU, silent) is plan
    assert (given.needs_scan(CPU), given.needs_scan(BOARD)) == (False, True)


def test_fixed_sites_are_planned_without_a_scan() -> None:
    held = planner(fixed={"conv": PAIR})
    assert not held.needs_scan(CPU)
    assert held.plan(CPU, silent).structures == {"conv": PAIR}
