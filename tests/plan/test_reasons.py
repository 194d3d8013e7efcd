"""Every layer that the planner leaves dense says why, by time or by error, measured or estimated."""

from dataclasses import replace

from kronexport.lower.forms import DENSE
from kronexport.measure.micro import Trial
from kronexport.plan.choose import dense_plan
from kronexport.plan.measured import Menu
from kronexport.plan.reasons import NOTHING_SMALLER, why_dense, with_reasons
from tests.plan.test_measured import PROFILE, SURVEY, estimate, menus


def learnt(menu: Menu, factor: float, structures: int = 3) -> Menu:
    """The menu once dense took a second and every form of its first structures ``factor`` seconds."""
    menu.learn({Trial.left_dense(menu.site): 1.0})
    for pick in menu.options[1 : 1 + structures]:
        menu.learn(dict.fromkeys(menu.untimed(pick), factor))
    return menu


def test_where_nothing_that_was_timed_is_faster_that_is_the_reason() -> None:
    menu, _ = menus()
    assert why_dense(learnt(menu, 1.25)) == "dense is the fastest: the best other form (timed) runs 0.80x as fast"


def test_where_a_form_is_faster_its_error_is_the_reason() -> None:
    menu, _ = menus()
    reason = why_dense(learnt(menu, 0.5))
    assert "the goals are met at less error" in reason
    assert "(timed) runs 2.00x as fast, with a weight error of 0." in reason


def test_what_was_not_timed_goes_by_estimate_and_says_so() -> None:
    menu, _ = menus()
    assert "(by estimate)" in why_dense(menu)
    menu.learn({Trial.left_dense(menu.site): estimate(Trial.left_dense(menu.site))})
    assert "(by estimate)" in why_dense(menu)


def test_a_layer_without_candidates_says_that() -> None:
    menu, _ = menus()
    assert why_dense(replace(menu, options=menu.options[:1])) == NOTHING_SMALLER


def test_a_runtime_that_runs_no_form_is_named() -> None:
    menu, _ = menus()
    only = replace(menu, options=menu.options[:2])
    trials = {Trial.left_dense(only.site), *only.untimed(only.options[1])}
    only.learn({trial: 1.0 if trial.form.name == DENSE else None for trial in trials})
    assert why_dense(only) == "the runtime runs none of its forms"


def test_only_dense_layers_without_a_reason_get_one() -> None:
    plan = dense_plan(SURVEY, PROFILE)
    first, second = plan.sites
    told = replace(plan, sites=(replace(first, reason="the guard's"), second))
    found = with_reasons(told, menus())
    assert found == plan  # reasons are not what plans are compared by
    assert found.sites[0].reason == "the guard's"
    assert found.sites[1].reason is not None
    factorized = replace(plan, sites=(replace(first, structure=menus()[0].options[1].structure), second))
    assert with_reasons(factorized, menus()).sites[0].reason is None
