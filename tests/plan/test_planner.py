"""Whose word counts for a target: the user's plan, goals, or the default goal."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kronexport.backends.profile import load_target
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.factorize.scan import ErrorScan
from kronexport.plan import planner as module
from kronexport.plan.choose import dense_plan
from kronexport.plan.goals import parse_goal
from kronexport.plan.planner import Planner
from kronexport.records import Plan, Precision, Structure, silent
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


@pytest.mark.parametrize(
    ("target", "precision", "bytes_each"), [("jetson", "fp16", 2), ("jetson", "int8", 4), ("cpu", "int8", 1)]
)
def test_a_goal_in_bytes_counts_weights_as_wide_as_they_ship(
    target: str, precision: Precision, bytes_each: int
) -> None:
    """The same weights are left of a network that is narrower, where as many bytes fewer are asked for."""
    profile, half = load_target(target), SURVEY.params // 2
    scan = ErrorScan({"conv": np.random.default_rng(0).standard_normal((16, 16, 3, 3))})

    def planned(precision: Precision, limit: int) -> Plan:
        goals = (parse_goal(f"size<={limit}B"),)
        return Planner(SURVEY, scan, goals, {}, None, lambda *_: None, precision).plan(profile, silent)

    assert planned(precision, half * bytes_each).sites == planned("fp32", half * 4).sites
    assert planned("fp32", half * 4).structures


@pytest.mark.parametrize(("goal", "is_kept"), [("size<=0.5", False), ("latency<=0.5", True)])
def test_a_conv_in_float_must_not_break_a_goal_on_size(
    monkeypatch: pytest.MonkeyPatch, goal: str, *, is_kept: bool
) -> None:
    """It is faster, and its weights take more bytes."""
    plan = dense_plan(SURVEY, CPU)
    in_float = replace(plan, sites=tuple(replace(choice, float_steps=(0,)) for choice in plan.sites))
    monkeypatch.setattr(module, "with_float_steps", lambda *_: in_float)
    monkeypatch.setattr(module, "goals_met", lambda one, goals, *_: [not one.float_steps for _ in goals])
    whole: Any = SimpleNamespace(clock=None, rehearsal=SimpleNamespace(progress=silent))
    held = replace(planner(goal), precision="int8")
    found = held._with_allowed_float_steps(plan, [parse_goal(goal)], CPU, whole)
    assert (found == in_float) is is_kept
    assert any("too large for the goals" in note for note in found.notes) is not is_kept
