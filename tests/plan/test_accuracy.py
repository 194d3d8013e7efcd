"""The search for the largest error that keeps a goal on accuracy."""

import pytest

from kronexport.plan.accuracy import BUILDS, CLOSE, accuracy_alone, next_error
from kronexport.plan.goals import parse_goal


@pytest.mark.parametrize("threshold", [1e-6, 0.03, 0.9, 40.0])
def test_the_search_closes_in_on_what_is_allowed(threshold: float) -> None:
    """Of a network that loses 1 % above some error; far away the builds end before."""
    drops = [(1.0, 2.0 if threshold < 1 else 0.5)]
    while error := next_error(drops, allowed=1.0):
        drops.append((error, 2.0 if error > threshold else 0.5))
    assert len(drops) <= BUILDS
    met = [error for error, drop in drops if drop <= 1]
    missed = [error for error, drop in drops if drop > 1]
    if threshold in (0.03, 0.9, 40.0):
        assert max(met) <= threshold < min(missed)
    else:
        assert not met
    if threshold == 0.9:
        assert min(missed) <= CLOSE * max(met)


def test_a_network_without_an_error_has_nowhere_to_go() -> None:
    """Dense keeps every accuracy: the search cannot multiply an error of 0."""
    assert not next_error([(0.0, 0.0)], allowed=1.0)


@pytest.mark.parametrize(
    ("goals", "allowed"),
    [((), None), (("accuracy_drop<=1",), 1.0), (("accuracy_drop<=2", "accuracy_drop<=0.5"), 0.5)]
    + [(("accuracy_drop<=1", f"{name}<=0.5"), None) for name in ("latency", "params", "memory")],
)
def test_other_goals_leave_nothing_to_search_for(goals: tuple[str, ...], allowed: float | None) -> None:
    """They bound the choice, which has the least error that they allow."""
    assert accuracy_alone(list(map(parse_goal, goals))) == allowed
