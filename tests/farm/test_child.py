"""The process of a job has the lease as long as it lives, and leaves nothing behind, however it ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kronexport.errors import BoardError
from kronexport.farm.child import RESULTS, lease
from kronexport.farm.jobs import BoardSpec, Seat
from kronexport.machines.keeper import free_lease, take_lease
from tests.farm.crew import ROOT
from tests.machines.server import eventually

PROBE = {"task": "probe", "runtime": "onnxruntime", "threads": 1}


def is_free(path: Path) -> bool:
    descriptor, _ = take_lease(str(path), {"token": "test", "owner": "test", "pid": os.getpid(), "since": 0})
    if descriptor is not None:
        free_lease(descriptor)
    return descriptor is not None


def order(folder: Path, job: dict[str, Any]) -> bytes:
    told = {"device": None, "python": "python3", "lease": str(folder / "lease"), "folder": str(folder)}
    return json.dumps({**told, "jobs": [job], "seconds": [60]}).encode() + b"\n"


@contextmanager
def started(folder: Path, job: dict[str, Any], *, seconds: float = 0) -> Iterator[subprocess.Popen[bytes]]:
    """A job by the scripted agent that takes so long."""
    (folder / "board.json").write_text(json.dumps({"speed": 1, "seconds": seconds}), encoding="utf-8")
    env = {**os.environ, "FARM_BOARD": str(folder / "board.json"), "FARM_LOG": str(folder / "log")}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.farm.scripted_child"], cwd=ROOT, env=env, stdin=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        process.stdin.write(order(folder, job))
        process.stdin.flush()
        yield process


def agent_of(folder: Path) -> int:
    """The process id of the agent, once it runs."""
    log = folder / "log"
    assert eventually(lambda: log.exists() and log.read_text(encoding="utf-8").endswith("\n"))
    return int(json.loads(log.read_text(encoding="utf-8").splitlines()[0])["pid"])


def test_results_are_written_and_the_lease_is_free(tmp_path: Path) -> None:
    with started(tmp_path, PROBE) as process:
        assert process.wait(timeout=60) == 0
    (result,) = json.loads((tmp_path / RESULTS).read_text(encoding="utf-8"))["results"]
    assert result["environment"]["cpu_model"] == "scripted"
    assert is_free(tmp_path / "lease")


def test_what_the_agent_says_comes_back_with_its_code(tmp_path: Path) -> None:
    job = {**PROBE, "runtime": "none"}
    line = [sys.executable, "-m", "kronexport.farm.child"]
    subprocess.run(line, cwd=ROOT, input=order(tmp_path, job), check=False)
    # stdin had ended before the job did: the process is gone with it, and there is no result
    assert not (tmp_path / RESULTS).exists()
    with subprocess.Popen(line, cwd=ROOT, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(order(tmp_path, job))
        process.stdin.flush()
        assert process.wait(timeout=60) == 0
    error = json.loads((tmp_path / RESULTS).read_text(encoding="utf-8"))["error"]
    assert (error["code"], error["lost"]) == (2, False)
    assert "none" in error["message"]


ENDINGS: dict[str, Callable[[subprocess.Popen[bytes]], None]] = {
    "its worker is gone": lambda process: process.stdin.close() if process.stdin else None,
    "it is cancelled": lambda process: process.send_signal(signal.SIGTERM),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_it_takes_what_it_runs_with_it_and_frees_the_lease(ending: str, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"model")
    job = {**PROBE, "task": "race", "rounds": 1, "models": [{"name": "a", "path": str(model)}]}
    with started(tmp_path, job, seconds=60) as process:
        agent = agent_of(tmp_path)
        assert not is_free(tmp_path / "lease")
        ENDINGS[ending](process)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert not Path("/proc", str(agent)).exists()
    assert is_free(tmp_path / "lease")
    assert not (tmp_path / RESULTS).exists()


def test_two_never_have_one_machine(tmp_path: Path) -> None:
    """The second waits, and after a while says who has it."""
    path = str(tmp_path / "lease")
    with lease(path):
        with (
            pytest.raises(BoardError, match=r"this machine is in use by a farm's worker on .* for more than 0 s"),
            lease(path, 0),
        ):
            pass
        assert not is_free(tmp_path / "lease")
    with lease(path, 0):
        pass


def test_a_host_that_has_no_room_is_a_lost_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a fault of the job, which another board runs."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    answer = Seat(BoardSpec("cpu", lease=str(tmp_path / "lease"))).run("key", [PROBE], [60], {})
    assert answer["error"]["lost"]
    assert "the worker's host: " in answer["error"]["message"]


def test_who_is_no_farm_s_worker_is_not_waited_for(tmp_path: Path) -> None:
    """As a board over SSH says at once that it is in use."""
    path = str(tmp_path / "lease")
    descriptor, _ = take_lease(path, {"token": "a", "owner": "me@desk", "pid": os.getpid(), "since": 0})
    assert descriptor is not None
    with pytest.raises(BoardError, match=r"this machine is in use by me@desk; try again later"), lease(path):
        pass
    free_lease(descriptor)


READS = """
import json, pathlib, sys
order = json.loads(sys.stdin.readline())
paths = [pathlib.Path(model["path"]) for job in order["jobs"] for model in job["models"]]
found = {path.name: path.read_text() for path in paths if path.exists()}
pathlib.Path(order["folder"], "results.json").write_text(json.dumps({"results": [found]}))
"""
"""In the place of the child: the result is what it read."""


def test_a_board_keeps_files_that_later_jobs_name_but_no_others() -> None:
    seat = Seat(BoardSpec("cpu"), [sys.executable, "-c", READS])
    files = {"/hash/reference": b"r", "/hash/model": b"m"}
    job = {"models": [{"path": path} for path in files]}

    def read(*names: str, keep: bool = False) -> Any:
        given = {path: content for path, content in files.items() if path in names}
        return seat.run("key", [job], [60.0], given, keep=keep)["results"][0]

    assert read() == {}
    assert read("/hash/reference", keep=True) == {"reference": "r"}
    assert read("/hash/model") == {"reference": "r", "model": "m"}
    assert read() == {"reference": "r"}
