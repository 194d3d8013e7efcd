"""Rehearsals for real: plans of a small network as files that a runtime times beside the dense one."""

from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from kronexport.factorize.cp import cp_structure
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.lower.forms import DENSE
from kronexport.measure.setting import Setting, Timing
from kronexport.plan import rehearsal
from kronexport.plan.rehearsal import Rehearsal, noise_network
from kronexport.records import InputSpec, Plan, SitePlan, Structure, silent

PAIR = gkpd_structure((16, 1, 1, 1), (1, 16, 3, 3), 2)


@pytest.fixture
def rehearser() -> Rehearsal:
    module = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)).eval()
    setting = Setting("onnxruntime", 1, InputSpec("input", (1, 16, 24, 24)))
    return Rehearsal(module, 17, setting, Timing(0.05, 5, 0.0), silent)


def plan(lowering: str) -> Plan:
    dense = SitePlan("2", None, DENSE, 2320, 2304 * 576, 0.0)
    return Plan("cpu", (SitePlan("0", PAIR, lowering, 336, 320 * 576, 0.5), dense), "measured")


def test_both_networks_are_timed(rehearser: Rehearsal) -> None:
    """The planned one stores fewer weights; memory is measured when it is asked for."""
    found = rehearser.against_dense(plan("grouped-2-1"), memory=True)
    assert found.planned.bytes < found.dense.bytes
    assert found.dense.latency_ms is not None
    assert found.planned.latency_ms is not None
    assert found.speedup.median > 0
    assert found.planned.peak_memory_bytes
    assert rehearser.against_dense(plan("grouped-2-1"), memory=False).planned.peak_memory_bytes is None


def test_in_int8_a_plan_can_be_held_against_the_dense_network_that_ships(rehearser: Rehearsal) -> None:
    """With its own Convs in float, whose weights take four bytes."""
    rehearser.precision = "int8"
    planned = plan("grouped-2-1")
    before = rehearser.against_dense(planned, memory=False)
    sites = [SitePlan(name, None, DENSE, 2320, 2304 * 576, 0.0, float_steps=(0,)) for name in ("0", "2")]
    after = rehearser.against_dense(planned, memory=False, dense=Plan("cpu", tuple(sites), "measured"))
    assert after.dense.bytes > before.dense.bytes + 2 * 2304 * 2
    assert after.planned.bytes == before.planned.bytes


def test_a_network_is_known_by_all_that_it_computes(rehearser: Rehearsal) -> None:
    """Also by what stands between its layers; each time by the same."""
    module = rehearser.module
    same, other = replace(rehearser), replace(rehearser, module=nn.Sequential(module[0], nn.SiLU(), module[2]).eval())  # type: ignore[index]  # a Sequential
    assert rehearser.network_key() == same.network_key() != other.network_key()


@pytest.mark.parametrize("most", [rehearsal.LOADED_BYTES, 1])
def test_every_plan_is_compared_with_the_first(
    rehearser: Rehearsal, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also more than are loaded at once, and forms of one structure; large networks one by one."""
    monkeypatch.setattr(rehearsal, "LOADED_BYTES", most)
    others = [plan(name) for name in (DENSE, "grouped-1-2", "folded-1-2", "grouped-2-1")] * 2
    speedups = rehearser.against(plan("grouped-2-1"), others)
    assert len(speedups) == len(others)
    assert all(speedup.median > 0 for speedup in speedups)


@pytest.mark.parametrize(
    "structure",
    [
        PAIR,
        gkpd_structure((8, 8, 3, 1), (4, 4, 1, 3), 7),
        cp_structure([(32, 1, 1, 1), (1, 1, 3, 3), (1, 24, 1, 1)], [9]),
    ],
)
def test_noise_passes_through_a_layer_at_the_size_that_it_has(structure: Structure) -> None:
    """So that nothing becomes so small that a processor takes longer for it."""
    dense = noise_network(structure).to_dense()
    _, channels, height, width = dense.shape
    assert 0.3 < np.var(dense) * channels * height * width < 3
