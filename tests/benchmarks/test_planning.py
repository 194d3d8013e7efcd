import pytest
import torch
from torch import nn

from benchmarks.planning import (
    MEASURES,
    least_error_plan,
    network_budget,
    network_reduction,
    planner_candidates,
    sites_budget,
    sites_reduction,
)
from kronexport.errors import GoalError
from kronexport.records import InputSpec, Survey
from kronexport.survey.sites import survey


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1), nn.Flatten(), nn.Linear(12 * 64, 4)
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def found(network: nn.Module) -> Survey:
    return survey(network, InputSpec("input", (1, 3, 8, 8)))


def test_a_plan_reduces_both_measures_of_the_whole_network(network: nn.Module, found: Survey) -> None:
    candidates = planner_candidates(network, found.sites)
    plan = least_error_plan(found.sites, candidates, network_budget(found, 1.15))
    assert min(network_reduction(found, plan, name) for name in MEASURES) >= 1.15
    planned = sum(choice.params for choice in plan.sites)
    linear = 4 * (12 * 64 + 1)
    assert network_reduction(found, plan, "params") == pytest.approx(found.params / (planned + linear))


def test_a_plan_reduces_both_measures_of_the_sites(network: nn.Module, found: Survey) -> None:
    plan = least_error_plan(found.sites, planner_candidates(network, found.sites), sites_budget(found, 2.0))
    assert min(sites_reduction(found, plan, name) for name in MEASURES) >= 2


def test_a_factor_out_of_reach_is_refused(network: nn.Module, found: Survey) -> None:
    with pytest.raises(GoalError, match=r"params of the sites.* the least that is reachable"):
        least_error_plan(found.sites, planner_candidates(network, found.sites), network_budget(found, 1.9))
