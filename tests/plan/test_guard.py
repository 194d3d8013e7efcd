"""The guard: layers that save no time in the network go back to dense, unless a goal needs them."""

from collections.abc import Mapping, Sequence

import pytest
from torch import nn

from kronexport.factorize.gkpd import gkpd_structure
from kronexport.lower.forms import DENSE
from kronexport.measure.setting import Setting, Timing
from kronexport.plan.guard import MOST, UNTOLD, guarded_plan
from kronexport.plan.rehearsal import Rehearsal
from kronexport.records import InputSpec, Plan, SitePlan, Speedup, silent
from tests.plan.samples import site

NAMES = tuple(f"layer{index}" for index in range(4))
SITES = tuple(site(name, 16, 16) for name in NAMES)
NOISE = 0.01


class Doubled(Rehearsal):
    """A double of a network: by layer, the part of the network's time that running it dense saves (below 0: costs)."""

    def __init__(self, saves: Mapping[str, float]) -> None:
        super().__init__(nn.Identity(), 18, Setting("onnxruntime", 1, InputSpec("x", (1,))), Timing(), silent)
        self.saves = saves
        self.tried: list[tuple[str, ...]] = []

    def against(self, plan: Plan, others: Sequence[Plan]) -> list[Speedup]:
        assert all(other.structures == plan.structures for other in others)
        found = []
        for other in others:
            dense = tuple(choice.site for choice in other.sites if choice.lowering == DENSE)
            self.tried.append(dense)
            median = 1 / (1 - sum(self.saves[name] for name in dense))
            found.append(Speedup(median, (median - NOISE, median + NOISE), "within noise"))
        return found


def planned(*names: str) -> Plan:
    structure = gkpd_structure((16, 1, 1, 1), (1, 16, 3, 3), 2)
    choices = (SitePlan(name, structure, "grouped-1-2", 1, SITES[0].macs // 2, 0.5) for name in names)
    return Plan("cpu", tuple(choices), "measured")


def left(plan: Plan, saves: Mapping[str, float], most_dense: int = 9, *, meets: bool = True) -> set[str]:
    """The layers that stay factorized."""

    def allowed(one: Plan) -> bool:
        return sum(choice.structure is None for choice in one.sites) <= most_dense

    found = guarded_plan(plan, SITES, allowed, lambda _plan: meets, Doubled(saves))
    assert all((choice.lowering == DENSE) == (choice.structure is None) for choice in found.sites)
    back = [choice.site for choice in plan.sites if choice.site not in found.structures]
    assert all(any(name in note for note in found.notes) for name in back)
    reasons = {choice.site: choice.reason for choice in found.sites}
    assert all("saves no time in the network" in str(reasons[name]) for name in back)
    assert not any(reasons[name] for name in found.structures)
    return set(found.structures)


PAYS, IDLE, HARMS = -0.1, 0.0, 0.05


def test_what_does_not_pay_goes_back() -> None:
    """Both what slows the network down and what makes no difference."""
    saves = dict(zip(NAMES, (PAYS, IDLE, HARMS, PAYS), strict=True))
    assert left(planned(*NAMES), saves) == {NAMES[0], NAMES[3]}


@pytest.mark.parametrize(("most", "kept"), [(0, 4), (1, 3), (2, 2)])
def test_as_long_as_the_goals_stay_met(most: int, kept: int) -> None:
    """What harms most goes first."""
    saves = dict(zip(NAMES, (IDLE, HARMS, IDLE, IDLE), strict=True))
    found = left(planned(*NAMES), saves, most)
    assert len(found) == kept
    assert (NAMES[1] in found) == (most == 0)


def test_goals_that_need_the_network_have_the_last_word() -> None:
    saves = dict.fromkeys(NAMES, HARMS)
    assert left(planned(*NAMES), saves, meets=False) == set(NAMES)


def test_layers_that_cost_together_what_none_costs_alone_stay() -> None:
    """Each is within noise, all of them are not; what harms goes back all the same."""
    cost = -0.9 * NOISE
    assert 3 * -cost > UNTOLD
    saves = dict(zip(NAMES, (cost, cost, cost, HARMS), strict=True)) | {NAMES[3]: 1.1 * NOISE}
    assert left(planned(*NAMES), saves) == set(NAMES[:3])


def test_other_layers_are_left_alone() -> None:
    """Those that are not to be replaced, such as layers that came with factors, and dense ones."""
    plan = planned("given", NAMES[0])
    assert left(plan, {"given": HARMS, NAMES[0]: PAYS}) == {"given", NAMES[0]}


def test_few_layers_are_timed() -> None:
    names = [f"layer{index}" for index in range(MOST + 3)]
    rehearsal = Doubled(dict.fromkeys(names, PAYS))
    plan = planned(*names)
    sites = [site(name, 16, 16) for name in names]
    assert guarded_plan(plan, sites, lambda _plan: True, lambda _plan: True, rehearsal) == plan
    assert len(rehearsal.tried) == MOST
