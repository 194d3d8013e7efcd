"""What a request makes of its configuration: how long forms are timed, what estimates them, and when time is up."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from kronexport import instruments
from kronexport.backends.profile import load_target
from kronexport.backends.trt_engine import Tool
from kronexport.backends.trt_machine import TrtMachine
from kronexport.config import BuildConfig
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.instruments import clock_of, cost_model_of
from kronexport.lower.forms import generate_forms
from kronexport.machines.here import HERE
from kronexport.machines.place import Place
from kronexport.measure.costs import FormTimes
from kronexport.measure.micro import Trial, micro_key
from kronexport.measure.race import RaceTiming
from kronexport.measure.work import MeasuredCost, work_of
from kronexport.records import silent
from kronexport.request import board_runtimes, race_timing, served_by
from tests.plan.samples import site, surveyed

CPU = load_target("cpu")
CONFIG = BuildConfig(model="sample:resnet20")
PLACE = site("conv", 8, 8)
FORMS = generate_forms(gkpd_structure((8, 1, 1, 1), (1, 8, 3, 3), 2), PLACE.geometry, PLACE.input_size)


@dataclass
class Timed:
    """A double of ``measure_forms``; ``up`` holds whether time was up, each time that it was called."""

    up: list[bool]
    timings: list[RaceTiming]

    def __call__(
        self, trials: Sequence[Trial], *_: object, timing: RaceTiming, time_is_up: Callable[[], bool], **__: object
    ) -> FormTimes:
        self.up.append(time_is_up())
        self.timings.append(timing)
        return FormTimes(dict.fromkeys(trials, 1.0), {})


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Timed:
    double = Timed([], [])
    monkeypatch.setattr(instruments, "measure_forms", double)
    return double


def ticking(*seconds: float) -> Callable[[], float]:
    """A clock that shows these, one each time that it is asked: when timing begins, is under way, and ends."""
    shown: Iterator[float] = iter(seconds)
    return lambda: next(shown)


def test_the_time_budget_is_spent_on_timing_alone(timed: Timed) -> None:
    """What happens between two calls is not counted."""
    config = CONFIG.model_copy(update={"time_budget": "1.5m"})
    clock = clock_of(config, CPU, silent, ticking(0, 0, 60, 1000, 1029, 1029, 2000, 2001, 2001, 3000, 3000, 3000))
    for _ in range(4):
        clock([Trial.left_dense(PLACE)])
    assert timed.up == [False, False, True, True]


def test_without_a_budget_time_is_never_up(timed: Timed) -> None:
    clock_of(CONFIG, CPU, silent, ticking(0, 1e9, 1e9))([Trial.left_dense(PLACE)])
    assert timed.up == [False]


def test_races_are_as_short_as_the_networks_are_timed(timed: Timed) -> None:
    """Never longer than usual."""
    assert race_timing(CONFIG) == RaceTiming()
    short = CONFIG.model_copy(update={"measure": CONFIG.measure.model_copy(update={"seconds": 0.05, "rounds": 5})})
    assert race_timing(short) == replace(RaceTiming(), seconds=0.05, rounds=5)
    clock_of(short, CPU, silent)([Trial.left_dense(PLACE)])
    assert timed.timings == [race_timing(short)]


def test_the_cost_model_learns_from_other_layers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed for a plan must not change what the same plan asks for when it is made again."""
    own, other = micro_key(Trial.left_dense(PLACE), CPU.opset), "another layer"
    asked: list[tuple[object, ...]] = []

    def costs(layer: str) -> Callable[..., list[MeasuredCost]]:
        def known(*arguments: object, **_: object) -> list[MeasuredCost]:
            asked.append(arguments)
            return [MeasuredCost(layer, work_of(form, 1), 1e-3) for form in FORMS]

        return known

    found = []
    for layer in (own, other):
        monkeypatch.setattr(instruments, "measured_costs", costs(layer))
        found.append(cost_model_of(CONFIG, surveyed(PLACE), CPU))
    assert "no other layers were measured" in found[0].note
    assert f"fitted to {len(FORMS)} measurements of other layers" in found[1].note
    assert found[1].seconds(FORMS[0], 1) > 2 * found[0].seconds(FORMS[0], 1)
    assert {(arguments[1], arguments[3]) for arguments in asked} == {(1, RaceTiming())}


def test_the_store_of_this_machine_is_read(cache_folder: Path) -> None:
    """Whatever is in it, there is a cost model."""
    assert cache_folder.is_dir()
    assert cost_model_of(CONFIG, surveyed(PLACE), CPU).note.startswith("cost model")


# --- boards ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Elsewhere:
    """A double of a board that tells of itself and runs nothing."""

    found: dict[str, Any]
    place: str = "me@pi"
    width: int = 1
    notes: tuple[str, ...] = ()

    def environment(self, _runtime: str) -> dict[str, Any]:
        return self.found

    def run_agent(self, _job: dict[str, Any], *, timeout_seconds: float) -> dict[str, Any]:
        raise AssertionError(timeout_seconds)

    def in_folder(self, work: Callable[[Place], Any]) -> Any:
        raise AssertionError(work)


PI = Elsewhere(
    {"machine": "aarch64", "compatible": ["raspberrypi,5-model-b", "brcm,bcm2712"], "runtime_version": "1.24.1"}
)


def test_a_bundle_for_a_board_asks_for_the_release_that_is_there() -> None:
    """It was verified in that one; the one of this machine may be later."""
    assert board_runtimes([load_target("rpi5"), CPU], PI) == {"rpi5": "1.24.1"}


def test_a_target_is_served_by_its_board_and_this_machine_by_itself() -> None:
    assert served_by(load_target("rpi5"), PI) is PI
    assert served_by(load_target("rpi5"), None) is None
    assert served_by(CPU, PI) is HERE


def test_a_board_of_tensorrt_is_driven_by_its_trtexec() -> None:
    """By the path and the release that it tells."""
    orin = Elsewhere({"trtexec": "/usr/src/tensorrt/bin/trtexec", "runtime_version": "8.6.2"}, "me@orin")
    found = served_by(load_target("jetson"), orin)
    assert isinstance(found, TrtMachine)
    assert (found.host, found.tool) == (orin, Tool("/usr/src/tensorrt/bin/trtexec", "8.6.2"))
    assert served_by(load_target("jetson"), None) is None
