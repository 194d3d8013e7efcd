"""What a worker, a client and ``farm status`` refuse, and what they say of it."""

import json
from collections.abc import Iterator

import pytest

from kronexport.errors import MissingRuntimeError, UserInputError
from kronexport.farm import farm as farms
from kronexport.farm import require_dask, versions, worker
from kronexport.farm.farm import Farm
from kronexport.farm.jobs import BoardSpec
from kronexport.farm.worker import serve
from tests.conftest import command
from tests.farm.crew import Crew

NOWHERE = "tcp://127.0.0.1:9"


@pytest.mark.parametrize(
    ("board", "message"),
    [
        (
            "jetson",
            "--board jetson: a farm times forms of layers, and TensorRT's targets are planned by their roofline",
        ),
        ("rpi5", "expected aarch64; choose its target"),
        ("nothing", "nothing"),
    ],
)
def test_a_board_that_cannot_serve_is_refused(board: str, message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        serve(NOWHERE, BoardSpec(board))


@pytest.mark.parametrize(
    "arguments", [("farm", "status"), ("farm", "worker", "--board", "cpu"), ("build", "sample:resnet20")]
)
def test_a_farm_without_a_scheduler_is_refused(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any work."""
    for module in (farms, worker):
        monkeypatch.setattr(module, "CONNECT_SECONDS", 0.2)
    ended = command(*arguments, "--farm", NOWHERE)
    assert ended.code == 1
    assert f"--farm {NOWHERE}: no scheduler there: " in ended.err
    assert "start one by: dask scheduler" in ended.err


@pytest.fixture
def of_later_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this process had another dask than everybody else."""
    versions.own_versions.cache_clear()
    monkeypatch.setattr(versions, "version", lambda _package: "2099.1.0")


@pytest.fixture(autouse=True)
def own_versions_afterwards() -> Iterator[None]:
    yield
    versions.own_versions.cache_clear()


@pytest.mark.usefixtures("of_later_release")
def test_a_scheduler_of_another_release_is_refused(address: str) -> None:
    """By the client and by the worker."""
    expected = "the scheduler has distributed 20.*, expected 2099.1.0; install the same versions there and here"
    with pytest.raises(MissingRuntimeError, match=expected):
        Farm(address)
    with pytest.raises(MissingRuntimeError, match=expected):
        serve(address, BoardSpec("cpu"))


def test_a_farm_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingRuntimeError, match=r"python -m pip install 'kronexport\[farm\]'"):
        require_dask()


@pytest.mark.parametrize(
    "words", [("build", "sample:resnet20"), ("farm", "status"), ("farm", "worker", "--board", "cpu"), ("bench", "dist")]
)
def test_an_address_of_another_form_is_refused(words: tuple[str, ...]) -> None:
    ended = command(*words, "--farm", "scheduler:8786")
    assert ended.code == 2
    assert "--farm scheduler:8786: expected tcp://HOST:PORT or tls://HOST:PORT" in ended.err


def test_a_farm_and_a_device_are_too_much() -> None:
    ended = command("build", "sample:resnet20", "--farm", NOWHERE, "--device", "ssh://me@pi")
    assert ended.code == 2
    assert f"--farm {NOWHERE}: there is --device ssh://me@pi, too; give one of them" in ended.err


@pytest.mark.parametrize("target", ["rpi5", "cpu"])
def test_a_farm_without_boards_of_the_target_is_refused(target: str, crew: Crew) -> None:
    ended = command("plan", "sample:resnet20", "--farm", crew.address, "--target", target)
    assert ended.code == 2
    assert f"it has no board {'x86-onnxruntime' if target == 'cpu' else 'rpi5'}, but x86-openvino" in ended.err


def test_status_lists_the_boards(crew: Crew, farm: Farm) -> None:
    """And why one gets no work."""
    first, second, _ = crew.hands
    farm.tell(second.name, {"state": "quarantined", "reason": "it drifts", "reference_ms": 1.5, "factor": 1.0})
    try:
        told = json.loads(command("farm", "status", "--farm", crew.address, "--json").out)
        text = command("farm", "status", "--farm", crew.address).out
    finally:
        farm.tell(second.name, {"state": "ready", "reason": "", "reference_ms": 1.5, "factor": 1.0})
    states = {one["worker"]: one for one in told}
    assert states.keys() >= {hand.name for hand in crew.hands}
    assert (states[first.name]["state"], states[first.name]["board"]) == ("idle", "x86-openvino")
    assert (states[second.name]["state"], states[second.name]["reason"]) == ("quarantined", "it drifts")
    assert "quarantined" in text
    assert "    it drifts" in text


@pytest.mark.usefixtures("of_later_release")
def test_a_worker_of_another_release_gets_no_work(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its board does not fit, which the status says too, of all boards if it is this process that is another."""
    monkeypatch.setattr(farms, "misfit", lambda *_: None)  # the scheduler is let pass
    told = json.loads(command("farm", "status", "--farm", crew.address, "--json").out)
    assert {one["state"] for one in told} == {"does not fit"}
    ended = command("plan", "sample:resnet20", "--farm", crew.address, "--target", "openvino")
    assert ended.code == 1
    assert "no board x86-openvino is left" in ended.err
    assert "its worker has distributed" in ended.err
