"""The papers' lowering of a plan: the same factors in their own forward, the faster order of each layer."""

from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks import papers_lowering
from benchmarks.papers_lowering import papers_forms, papers_plan, row
from kronexport.backends.profile import load_target
from kronexport.factorize.cp import cp_structure
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.lower.forms import DENSE
from kronexport.measure.costs import FormTimes
from kronexport.measure.micro import Trial
from kronexport.records import Plan, SitePlan, Speedup, Structure
from tests.plan.samples import site, surveyed

PAIR = gkpd_structure((4, 4, 1, 1), (4, 4, 3, 3), 2)
K_THEN_POINTWISE = gkpd_structure((16, 1, 1, 1), (1, 16, 3, 3), 4)
WASTEFUL = gkpd_structure((4, 4, 1, 1), (4, 4, 3, 3), 100)
CHAIN = cp_structure([(16, 1, 1, 1), (1, 1, 3, 3), (1, 16, 1, 1)], [4])


def choice(structure: Structure | None, name: str = "conv") -> SitePlan:
    return SitePlan(name, structure, "rows-1-2" if structure else DENSE, 1, 2, 0.1)


@pytest.mark.parametrize(
    ("structure", "names"),
    [
        (PAIR, ["folded-1-2", "folded-2-1"]),
        (K_THEN_POINTWISE, ["grouped-2-1"]),
        (CHAIN, ["grouped-3-2-1"]),
        (WASTEFUL, ["folded-1-2"]),
    ],
)
def test_both_orders_are_tried_where_they_save_macs_and_grouped_where_nothing_can_be_folded(
    structure: Structure, names: list[str]
) -> None:
    assert [form.name for form in papers_forms(site("conv", 16, 16), choice(structure))] == names


@pytest.mark.parametrize("runs_reversed", [True, False])
def test_each_layer_takes_the_faster_order_that_the_runtime_runs(
    monkeypatch: pytest.MonkeyPatch, *, runs_reversed: bool
) -> None:
    """Its MACs are those of the form, and dense layers stay."""

    def double(trials: Sequence[Trial], *_: Any, **__: Any) -> FormTimes:
        seconds = {trial: 1.0 if trial.form.name == "folded-2-1" else 2.0 for trial in trials}
        kept = {trial: time for trial, time in seconds.items() if runs_reversed or time > 1}
        return FormTimes(kept, {trial: "not run" for trial in seconds if trial not in kept})

    monkeypatch.setattr(papers_lowering, "measure_forms", double)
    first, second = site("conv", 16, 16), site("other", 16, 16)
    plan = Plan("cpu", (choice(PAIR), choice(None, "other")), "measured")
    papers = papers_plan(surveyed(first, second), plan, load_target("cpu"), 1)
    expected = "folded-2-1" if runs_reversed else "folded-1-2"
    form = next(form for form in papers_forms(first, choice(PAIR)) if form.name == expected)
    assert [one.lowering for one in papers.sites] == [expected, DENSE]
    assert papers.sites[0].macs == form.macs
    assert papers.structures == plan.structures


def test_a_row_says_what_a_speed_up_makes_of_its_macs() -> None:
    cells = row("planned", 4.0, Speedup(2.87, (2.8, 2.95), "faster"))
    assert cells == ["planned", "4.00x", "2.87x (2.80 to 2.95)", "0.72"]
