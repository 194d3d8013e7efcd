"""The Pareto front: choices of least error on a ladder from dense down, the plan among them, none beaten."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronexport.factorize.gkpd import gkpd_structure
from kronexport.plan.candidates import Candidate
from kronexport.plan.pareto import RUNGS, pareto_front
from kronexport.records import ParetoPoint, Plan, SitePlan
from tests.plan.samples import site, surveyed

SURVEY = surveyed(site("one", 8, 8), site("two", 8, 8))
PAIR = gkpd_structure((8, 1, 1, 1), (1, 8, 3, 3), 4)
DENSE = Candidate(None, "dense", SURVEY.sites[0].params, SURVEY.sites[0].macs, 1, 0.0, 1.0, pays=True)

PARTS = st.floats(0.02, 0.98)
OPTIONS = st.lists(st.tuples(PARTS, PARTS, PARTS, PARTS), max_size=4)


def candidate(rank: int, part: float, error: float, seconds: float | None = None) -> Candidate:
    """One that needs ``part`` of dense's params and MACs, and of its seconds unless these are given."""
    return Candidate(
        structure=gkpd_structure((8, 1, 1, 1), (1, 8, 3, 3), rank),
        lowering="grouped-2-1",
        params=int(DENSE.params * part),
        macs=int(DENSE.macs * part),
        weights=1,
        squared_error=error**2,
        seconds=part if seconds is None else seconds,
        pays=True,
    )


SITE = [DENSE, candidate(3, 0.6, 0.2), candidate(2, 0.4, 0.3), candidate(1, 0.2, 0.6)]


def front(
    candidates: Sequence[Sequence[Candidate]], chosen: Sequence[Candidate], timed: set[Candidate] | None = None
) -> tuple[ParetoPoint, ...]:
    """Of the network of two sites, the last of which have these candidates."""
    names = [site.name for site in SURVEY.sites][-len(candidates) :] if candidates else []
    choices = [SitePlan(site.name, PAIR, "grouped-2-1", 10, 100, 0.0) for site in SURVEY.sites]
    planned = {
        name: SitePlan(name, pick.structure, pick.lowering, pick.params, pick.macs, 0.0)
        for name, pick in zip(names, chosen, strict=True)
    }
    plan = Plan("cpu", tuple(planned.get(choice.site, choice) for choice in choices), "measured")
    return pareto_front(SURVEY, plan, dict(zip(names, candidates, strict=True)), timed or set())


def everything(candidates: Sequence[Sequence[Candidate]]) -> set[Candidate]:
    return {candidate for options in candidates for candidate in options}


def total(choice: Sequence[Candidate], name: str) -> float:
    return float(sum(getattr(pick, name) for pick in choice))


def beats(one: ParetoPoint, other: ParetoPoint) -> bool:
    figures = [(p.latency or 0, p.macs, p.params, p.error) for p in (one, other)]
    return figures[0] != figures[1] and all(mine <= its for mine, its in zip(*figures, strict=True))


def test_the_front_goes_from_dense_to_the_fastest() -> None:
    """Parts of the whole network for params and MACs, of the sites for seconds; the plan is marked."""
    candidates = [SITE, SITE]
    found = front(candidates, [SITE[2], SITE[2]], everything(candidates))
    first, *_, last = found
    assert first == ParetoPoint(1.0, 1.0, 1.0, 0.0, "measured", chosen=False)
    assert last.latency == pytest.approx(0.2)
    assert last.error == pytest.approx(0.6)
    assert last.macs == pytest.approx((2 * SITE[3].macs + 1000) / SURVEY.macs)
    assert last.params == pytest.approx((2 * SITE[3].params + 1000) / SURVEY.params)
    (plan,) = (point for point in found if point.chosen)
    assert (plan.latency, plan.error) == pytest.approx((0.4, 0.3))
    assert [point.latency for point in found] == sorted((point.latency for point in found), reverse=True)  # type: ignore[type-var]  # none is None


@settings(max_examples=30)
@given(OPTIONS, OPTIONS)
def test_every_rung_is_the_least_error_at_its_seconds(
    one: list[tuple[float, ...]], other: list[tuple[float, ...]]
) -> None:
    """By brute force; and no point beats another."""
    candidates = [
        [DENSE, *(candidate(index + 1, p, e, s) for index, (p, _, e, s) in enumerate(options))]
        for options in (one, other)
    ]
    dense = [DENSE, DENSE]
    found = front(candidates, dense, everything(candidates))
    combinations = list(itertools.product(*candidates))
    for point in found:
        assert point.latency is not None
        limit = 2 * point.latency * (1 + 1e-9)
        least = min(total(picks, "cubed_error") for picks in combinations if total(picks, "seconds") <= limit)
        assert point.error == pytest.approx((least / 2) ** (1 / 3), abs=1e-9)
        assert point.chosen or not any(beats(rival, point) for rival in found)
    assert sum(point.chosen for point in found) == 1
    assert len(found) <= RUNGS + 2
    fastest = sum(min(option.seconds for option in options) for options in candidates) / 2
    assert min(point.latency or 0 for point in found) == pytest.approx(fastest)


def test_the_basis_says_what_was_timed() -> None:
    candidates = [SITE, SITE]
    found = front(candidates, [DENSE, SITE[2]], {DENSE, SITE[2]})
    by_error = {round(point.error, 6): point.basis for point in found}
    assert by_error[0.0] == "measured"
    assert by_error[0.6] == "roofline"
    assert next(point for point in found if point.chosen).basis == "measured"
    assert "mixed" in by_error.values()


def test_without_a_time_the_ladder_is_one_of_macs() -> None:
    found = front([SITE, SITE], [SITE[1], SITE[2]])
    assert {point.latency for point in found} == {None}
    assert {point.basis for point in found} == {"roofline"}
    assert len(found) > 3
    assert [point.macs for point in found] == sorted((point.macs for point in found), reverse=True)


def test_a_plan_that_is_beaten_is_told_all_the_same() -> None:
    """A goal on params may leave the sites slower than need be."""
    slow = replace(SITE[3], lowering="folded-2-1", seconds=0.9)
    candidates = [[*SITE, slow], SITE]
    found = front(candidates, [slow, DENSE], everything(candidates))
    (plan,) = (point for point in found if point.chosen)
    assert plan.latency == pytest.approx(0.95)


def test_sites_without_candidates_stay_as_they_are_planned() -> None:
    """The parts are those of the whole dense network all the same."""
    found = front([SITE], [SITE[3]], everything([SITE]))
    assert found[0].macs == pytest.approx((SITE[0].macs + 100 + 1000) / SURVEY.macs)
    assert found[0].params == pytest.approx((SITE[0].params + 10 + 1000) / SURVEY.params)
    assert (found[0].latency, found[0].error) == (1.0, 0.0)
    assert found[-1].macs == pytest.approx((SITE[3].macs + 100 + 1000) / SURVEY.macs)


def test_without_candidates_there_is_no_front() -> None:
    """Nor where the plan holds what was set aside since."""
    assert front([], []) == ()
    assert front([SITE[:2]], [SITE[3]]) == ()
