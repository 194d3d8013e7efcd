"""A plan by a farm is the plan by one machine, whatever happens to a board meanwhile."""

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kronexport import agent
from kronexport.cli import terminate
from kronexport.machines.keeper import free_lease, take_lease
from tests.conftest import INPUT, SHORT, Ended, command
from tests.farm import scripted_agent
from tests.farm.crew import Crew
from tests.machines.server import eventually

OPENVINO = "x86-openvino"


def planned(network: Path, *arguments: object) -> Ended:
    return command("plan", f"{network}:net", "--input", INPUT, "--target", "openvino", "--json", *SHORT, *arguments)


def sites(ended: Ended) -> list[dict[str, Any]]:
    """What becomes of each layer, with its seconds."""
    assert ended.code == 0, ended.err
    return list(json.loads(ended.out)["targets"][OPENVINO])


def races(crew: Crew) -> Counter[tuple[str, ...]]:
    """How often each set of models was begun."""
    return Counter(tuple(entry["models"]) for entry in crew.log("race"))


@pytest.fixture(scope="module")
def alone(network: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The plan that this machine makes by the same times, without a farm."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "board.json").write_text(json.dumps({"speed": 1.0}), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KRONEXPORT_CACHE", str(folder / "cache"))
        patch.setenv("FARM_BOARD", str(folder / "board.json"))
        patch.setenv("FARM_LOG", str(folder / "log.jsonl"))
        patch.setattr(agent, "__file__", scripted_agent.__file__)
        return sites(planned(network))


@pytest.mark.usefixtures("own_cache")
def test_the_plan_is_that_of_one_machine_and_made_again_measures_nothing(
    crew: Crew, network: Path, alone: list[dict[str, Any]]
) -> None:
    """Three boards, one of them slower; every race runs once."""
    crew.hands[0].becomes(speed=1.1)
    assert rounded(sites(planned(network, "--farm", crew.address))) == rounded(alone)
    assert set(races(crew).values()) == {1}
    assert len({entry["board"] for entry in crew.log("race")}) > 1
    crew.forget()
    assert rounded(sites(planned(network, "--farm", crew.address))) == rounded(alone)
    assert crew.log("race") == []


def rounded(plan: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Seconds that were scaled agree to their last digits but one."""
    return [
        {key: pytest.approx(value, rel=1e-9) if isinstance(value, float) else value for key, value in site.items()}
        for site in plan
    ]


@pytest.mark.usefixtures("own_cache")
def test_one_of_four_is_killed_in_the_middle(crew: Crew, network: Path, alone: list[dict[str, Any]]) -> None:
    """The plan is the same, and nothing is measured twice but the race that it was at."""
    (victim,) = crew.hire()

    def kill() -> None:
        assert eventually(lambda: str(victim.board) in {entry["board"] for entry in crew.log("race")}, seconds=300)
        os.kill(victim.process.pid, signal.SIGKILL)

    for hand in crew.hands:
        hand.becomes(seconds=0.5)
    killer = threading.Thread(target=kill)
    killer.start()
    found = planned(network, "--farm", crew.address)
    killer.join()
    assert rounded(sites(found)) == rounded(alone)
    twice = [models for models, times in races(crew).items() if times > 1]
    at = [tuple(entry["models"]) for entry in crew.log("race") if entry["board"] == str(victim.board)]
    assert twice in ([], [at[-1]])
    assert f"{victim.name} is lost" in found.out


@pytest.fixture
def hears_signals() -> Iterator[None]:
    """SIGTERM as ``cli.main`` does; and SIGINT, which a program that a script starts in the background ignores."""
    usual = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, terminate),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
    }
    yield
    for number, handler in usual.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("own_cache", "hears_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_plan_that_is_stopped_leaves_nothing_running(number: signal.Signals, crew: Crew, network: Path) -> None:
    """No agent runs on, and all leases are free."""
    for hand in crew.hands:
        hand.becomes(seconds=60)

    def stop() -> None:
        assert eventually(lambda: len(crew.log("race")) == 3, seconds=300)
        os.kill(os.getpid(), number)

    stopper = threading.Thread(target=stop)
    stopper.start()
    ended = planned(network, "--farm", crew.address)
    stopper.join()
    assert ended.code == 128 + number
    pids = [entry["pid"] for entry in crew.log("race")]
    assert len(pids) == 3
    assert eventually(lambda: not any(Path("/proc", str(pid)).exists() for pid in pids))
    assert eventually(lambda: all(is_free(crew.folder / f"lease-{index}") for index in range(3)))


def is_free(path: Path) -> bool:
    descriptor, _ = take_lease(str(path), {"token": "test", "owner": "test", "pid": os.getpid(), "since": 0})
    if descriptor is not None:
        free_lease(descriptor)
    return descriptor is not None
