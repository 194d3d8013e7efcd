"""Boards of a farm as one machine, over a real scheduler with workers in processes of their own; times are scripted."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kronexport import agent
from kronexport.backends.profile import load_target
from kronexport.errors import BoardError, KronexportError, UserInputError
from kronexport.farm.calibration import Limits
from kronexport.farm.farm import Farm
from kronexport.farm.fleet import IN_A_ROW, Fleet, Terms
from kronexport.measure import costs
from kronexport.measure.costs import measure_forms
from kronexport.measure.race import RaceTiming
from kronexport.measure.setting import Setting
from kronexport.measure.store import MeasurementStore, conditions_of
from kronexport.records import InputSpec, silent
from tests.farm.crew import Crew, Hand, scheduler
from tests.machines.jobs import infer_job
from tests.machines.server import eventually
from tests.measure.test_costs import LARGE, SMALL

SCRIPTED, REAL = load_target("openvino"), load_target("cpu")
TIMING = RaceTiming(seconds=0.01, rounds=2, warmup_seconds=0.0, drop_after=2)

pytestmark = pytest.mark.usefixtures("own_cache")


def fleet_of(farm: Farm, *, threads: int = 1, rests: tuple[float, ...] = (0.0, 0.0)) -> Fleet:
    return Fleet(farm, Terms(SCRIPTED, threads, "fp32", TIMING, Limits(), rests))


def race(fleet: Fleet, folder: Path, *names: str) -> dict[str, Any]:
    """A race of models whose content is their name."""
    models = {}
    for name in names:
        models[name] = folder / f"{name}.onnx"
        models[name].write_text(name, encoding="utf-8")
    job = Setting("openvino", 1, InputSpec("x", (1,)), machine=fleet).job("race", models)
    return fleet.run_agent({**job, "rounds": 2}, timeout_seconds=60)


def floors(result: dict[str, Any]) -> dict[str, float]:
    return {model["name"]: model["floor_ms"] for model in result["models"]}


def at_once(fleet: Fleet, folder: Path, *names: str) -> dict[str, float]:
    """A race of one model each, all of them under way together; the floors."""
    found: dict[str, float] = {}
    threads = [
        threading.Thread(target=lambda name=name: found.update(floors(race(fleet, folder, name)))) for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_equal_boards_run_at_once(farm: Farm, crew: Crew, tmp_path: Path) -> None:
    """Three races that each take a while run on three boards, and none of them twice."""
    fleet = fleet_of(farm)
    assert fleet.width == 3
    for hand in crew.hands:
        hand.becomes(seconds=1)
    at_once(fleet, tmp_path, "a", "b", "c")
    begun, ended = crew.log("race"), crew.log("race", "end")
    assert sorted(name for entry in begun for name in entry["names"]) == ["a", "b", "c"]
    assert {entry["board"] for entry in begun} == {str(hand.board) for hand in crew.hands}
    assert len(ended) == 3


def test_a_slower_board_is_scaled_to_the_others(farm: Farm, crew: Crew, tmp_path: Path) -> None:
    """Its times of forms are then those of the others."""
    (slow,) = crew.hire(speed=1.2)
    fleet = fleet_of(farm)
    for hand in crew.hands:
        hand.becomes(seconds=1, speed=1.2 if hand is slow else 1.0)
    found = at_once(fleet, tmp_path, "a", "b", "c", "d")
    (mine,) = (entry["names"][0] for entry in crew.log("race") if entry["board"] == str(slow.board))
    crew.forget()
    for hand in crew.hands[:3]:
        hand.becomes()
    leave(fleet, slow)
    assert floors(race(fleet, tmp_path, mine))[mine] == pytest.approx(found[mine], rel=1e-9)
    assert f"{slow.name} is scaled: its reference took 1.2 ms, the farm's 1 ms" in "\n".join(fleet.notes[1:])


def leave(fleet: Fleet, *hands: Hand) -> None:
    """As if these were lost."""
    for hand in hands:
        fleet._members.leave(hand.name, "lost", "for a test")


def test_a_board_that_differs_much_or_in_kind_gets_no_work(farm: Farm, crew: Crew) -> None:
    (slow,) = crew.hire(speed=1.5)
    (other,) = crew.hire(environment={"power_mode": "15W"})
    fleet = fleet_of(farm)
    assert fleet.width == 3
    notes = "\n".join(fleet.notes)
    assert f"{slow.name} is set aside: its reference took 1.5 ms, +50 %" in notes
    assert f"{other.name} is set aside: it is another board: power_mode 15W, not None" in notes
    told = farm.told()
    assert [told[hand.name]["state"] for hand in (slow, other)] == ["set aside", "set aside"]


def test_a_board_that_drifts_is_quarantined_and_its_race_runs_elsewhere(farm: Farm, crew: Crew, tmp_path: Path) -> None:
    """No client gives it work before its worker is started again."""
    (hot,) = crew.hire()
    fleet = fleet_of(farm)
    for hand in crew.hands:
        hand.becomes(seconds=1, speed=1.2 if hand is hot else 1.0)
    found = at_once(fleet, tmp_path, "a", "b", "c", "d")
    assert len(crew.log("race")) == 5
    for hand in crew.hands[:3]:
        hand.becomes()
    assert {name: floors(race(fleet, tmp_path, name))[name] for name in found} == found
    assert f"{hot.name} is quarantined: its reference went from 1 to 1.2 ms (limit 15 %)" in "\n".join(fleet.notes)
    assert farm.told()[hot.name]["state"] == "quarantined"
    again = fleet_of(farm)
    assert again.width == 3
    assert any(note.startswith(f"{hot.name} is quarantined") for note in again.notes)


def test_a_board_that_was_busy_for_a_moment_stays(farm: Farm, crew: Crew, tmp_path: Path) -> None:
    """What it ran meanwhile is not believed."""
    fleet = fleet_of(farm)
    (first, *others) = crew.hands
    leave(fleet, *others)
    right = floors(race(fleet, tmp_path, "a"))
    crew.forget()
    first.becomes(speed=1.2, momentary=True)
    assert floors(race(fleet, tmp_path, "a")) == right
    assert len(crew.log("race")) == 2
    assert fleet.width == 1
    assert farm.told()[first.name]["state"] == "ready"


def test_a_board_that_was_hot_is_given_time_to_cool(
    farm: Farm, crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the board that it was after the longer of two rests."""
    fleet = fleet_of(farm, rests=(2.0, 10.0))
    (first, *others) = crew.hands
    leave(fleet, *others)
    right = floors(race(fleet, tmp_path, "a"))
    rested: list[float] = []

    def rest(seconds: float) -> None:
        rested.append(seconds)
        if seconds > 2:
            first.becomes()

    monkeypatch.setattr(farm, "rest", rest)
    first.becomes(speed=1.2)
    assert floors(race(fleet, tmp_path, "a")) == right
    assert rested == [2.0, 10.0]
    assert farm.told()[first.name]["state"] == "ready"


def test_a_board_that_rests_is_given_no_work(
    farm: Farm, crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are: here the resting one is as idle as they are, and its races would come to them."""
    fleet = fleet_of(farm, rests=(2.0,))
    meanwhile: list[str] = []

    def rest(_seconds: float) -> None:
        (hot,) = (entry["board"] for entry in crew.log("race"))
        for hand in crew.hands:
            hand.becomes()
        for name in "bcdef":
            race(fleet, tmp_path, name)
        meanwhile.extend(entry["board"] for entry in crew.log("race")[1:])
        assert hot not in meanwhile

    monkeypatch.setattr(farm, "rest", rest)
    for hand in crew.hands:
        hand.becomes(speed=1.2)
    race(fleet, tmp_path, "a")
    assert len(meanwhile) == 5
    assert fleet.width == 3


def test_leaving_a_farm_ends_a_rest(farm: Farm, crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = fleet_of(farm, rests=(3600.0,))
    monkeypatch.setattr(farm.watcher, "is_closed_within", lambda seconds: seconds == 3600)
    for hand in crew.hands:
        hand.becomes(speed=1.2)
    with pytest.raises(BoardError, match="left while a board rested"):
        race(fleet, tmp_path, "a")
    assert fleet.width == 3


def test_a_board_that_changes_under_each_job_is_quarantined(farm: Farm, crew: Crew, tmp_path: Path) -> None:
    """Though it comes back each time: else its race would run for ever."""
    (restless,) = crew.hire()
    fleet = fleet_of(farm)
    leave(fleet, *(hand for hand in crew.hands if hand is not restless))
    restless.becomes(momentary=True, again=1.2)
    with pytest.raises(BoardError, match=f"{restless.name} is quarantined: its reference went from 1 to 1.2 ms"):
        race(fleet, tmp_path, "a")
    assert len(crew.log("race")) == IN_A_ROW


def test_a_race_whose_worker_is_killed_runs_elsewhere(farm: Farm, crew: Crew, tmp_path: Path) -> None:
    """The others' are not run again, and what ran on the one that was killed has ended with it."""
    (victim,) = crew.hire()
    fleet = fleet_of(farm)
    for hand in crew.hands:
        hand.becomes(seconds=2)

    def kill() -> None:
        assert eventually(lambda: str(victim.board) in {entry["board"] for entry in crew.log("race")})
        os.kill(victim.process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    found = at_once(fleet, tmp_path, "a", "b", "c", "d")
    killer.join()
    assert sorted(found) == ["a", "b", "c", "d"]
    begun = [entry["names"][0] for entry in crew.log("race")]
    (lost,) = (entry for entry in crew.log("race") if entry["board"] == str(victim.board))
    assert sorted(begun) == sorted(["a", "b", "c", "d", lost["names"][0]])
    assert eventually(lambda: not Path("/proc", str(lost["pid"])).exists())
    fleet.environment("openvino")
    assert fleet.width == 3
    assert f"{victim.name} is lost: its worker is gone; what it ran was run elsewhere" in fleet.notes


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_a_scheduler_that_ends_while_jobs_run(ending: signal.Signals, tmp_path: Path) -> None:
    """Who waits is told, and the boards do not go on with what nobody fetches."""
    with ThreadPoolExecutor(2) as pool, ExitStack() as there, ExitStack() as leaving:
        address = there.enter_context(scheduler(tmp_path, ending))
        crew = Crew(address, tmp_path)
        leaving.callback(crew.dismiss)
        crew.hire(count=2, seconds=60)
        fleet = fleet_of(leaving.enter_context(Farm(address)))
        waits = [pool.submit(race, fleet, tmp_path, name) for name in "ab"]
        assert eventually(lambda: len(crew.log("race")) == len(waits))
        there.close()
        for wait in waits:
            with pytest.raises(BoardError, match=r"the scheduler is gone"):
                wait.result(timeout=30)
        agents = [entry["pid"] for entry in crew.log("race")]
        assert eventually(lambda: not any(Path("/proc", str(pid)).exists() for pid in agents))


def test_what_a_board_of_no_member_says_is_not_taken(
    farm: Farm, crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a worker of another kind of board came to the address of one that was lost: the race runs again."""
    fleet = fleet_of(farm)
    right = floors(race(fleet, tmp_path, "a"))
    crew.forget()
    finish, strangers = farm.finish, iter([{"board": "another", "results": []}])
    monkeypatch.setattr(farm, "finish", lambda begun: {**finish(begun), **next(strangers, {})})
    assert floors(race(fleet, tmp_path, "a")) == right
    assert len(crew.log("race")) == 2
    assert fleet.width == 3


def test_networks_are_timed_on_one_board_and_on_another_when_that_is_lost(
    farm: Farm, crew: Crew, tmp_path: Path
) -> None:
    """As they are: what ships is not judged by times that were multiplied."""
    fleet = fleet_of(farm)
    model = tmp_path / "net.onnx"
    model.write_text("net", encoding="utf-8")
    job = Setting("openvino", 1, InputSpec("x", (1,)), machine=fleet).job("bench", {"net": model}) | {"rounds": 2}
    for _ in range(2):
        fleet.run_agent(job, timeout_seconds=60)
    home, again = (entry["board"] for entry in crew.log("bench"))
    assert home == again
    leave(fleet, *(hand for hand in crew.hands if str(hand.board) == home))
    fleet.run_agent(job, timeout_seconds=60)
    assert crew.log("bench")[-1]["board"] != home
    leave(fleet, *crew.hands)
    with pytest.raises(BoardError, match=r"no board x86-openvino is left: .* is lost: for a test"):
        fleet.run_agent(job, timeout_seconds=60)


def test_a_board_that_comes_later_is_given_work(farm: Farm, crew: Crew) -> None:
    fleet = fleet_of(farm)
    crew.hire()
    assert fleet.width == 3
    fleet.environment("openvino")
    assert fleet.width == 4


def test_times_are_those_of_the_first_plan_of_such_boards(farm: Farm, crew: Crew, tmp_path: Path) -> None:
    """The boards have become a tenth slower since: what is timed now still fits to what was timed then."""
    first = fleet_of(farm)
    before = floors(race(first, tmp_path, "a"))
    for hand in crew.hands:
        hand.becomes(speed=1.1)
    assert floors(race(fleet_of(farm), tmp_path, "a")) == pytest.approx(before, rel=1e-9)
    with MeasurementStore() as store:
        known = store.times(conditions_of("openvino", 1, "fp32", TIMING, machine=first))
    assert known[Terms(SCRIPTED, 1, "fp32", TIMING).reference_pair].floor == pytest.approx(0.001)


def test_a_farm_that_has_none_of_the_target_is_refused(farm: Farm) -> None:
    with pytest.raises(UserInputError, match="it has no board intel-n100; start one by: kronexport farm worker"):
        Fleet(farm, Terms(load_target("intel-n100"), 1, "fp32", TIMING))


def test_another_runtime_than_the_targets_is_refused(farm: Farm, crew: Crew) -> None:
    assert crew.hands
    with pytest.raises(UserInputError, match="it runs openvino, not onnxruntime"):
        fleet_of(farm).environment("onnxruntime")


# --- real boards ----------------------------------------------------------------------------------------------------


def test_real_boards_time_forms_as_this_machine_does(
    farm: Farm, crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers, each a real agent with ONNX Runtime, of one lease since they are one machine.

    What they find is what this machine finds in the store, and it measures nothing again; outputs and errors come back.
    """
    crew.hire(kind="real", count=2)
    fleet = Fleet(farm, Terms(REAL, 1, "fp32", TIMING, Limits(same=9, most=9, drift=9)))
    assert fleet.width == 2
    with MeasurementStore() as store:
        found = measure_forms([*SMALL, *LARGE], REAL, 1, store, progress=silent, timing=TIMING, machine=fleet)
        assert list(found.seconds) == list(dict.fromkeys([*SMALL, *LARGE]))
        monkeypatch.setattr(costs, "settled_race", lambda *_: pytest.fail("measured again"))
        assert measure_forms([*SMALL, *LARGE], REAL, 1, store, progress=silent, timing=TIMING) == found
    job = infer_job(tmp_path)
    assert agent.read_npz(fleet.run_agent(job, timeout_seconds=60)["outputs_npz"])
    with pytest.raises(KronexportError, match="no such model file"):
        fleet.run_agent({**job, "models": [{"name": "gone", "path": str(tmp_path / "gone.onnx")}]}, timeout_seconds=60)
