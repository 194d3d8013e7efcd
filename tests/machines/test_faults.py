"""Faults of a board, one after the other: each ends in a finished job or in a clear error, and nothing is left."""

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import asyncssh
import numpy as np
import pytest

from kronexport import agent
from kronexport.errors import BoardError, KronexportError
from tests.machines.jobs import bench_job, infer_job
from tests.machines.server import STEPS, Server, eventually
from tests.machines.test_board import children

FIRST = ("connect", "login")
"""Steps at which nothing was there yet: what could not be reached at all is not tried again."""


def clean(server: Server) -> bool:
    """Whether the board has nobody's lease, no work folder and no process."""
    return server.is_free() and server.leftovers() == [] and server.keepers() == []


def finished(folder: Path) -> bool:
    """Whether the outputs of ``infer_job`` are there, whole; if they are not, nothing of them is."""
    found = sorted(path.name for path in folder.iterdir() if path.name not in ("inputs.npz", "model.onnx"))
    if found == ["outputs.npz"]:
        return all(np.isfinite(array).all() for array in agent.read_npz(str(folder / "outputs.npz")).values())
    assert found == []
    return False


@pytest.mark.parametrize("step", STEPS)
def test_a_connection_that_is_cut_once_is_mended(server: Server, tmp_path: Path, step: str) -> None:
    """The job is done again from its beginning, whatever it had come to."""
    folder = tmp_path / "job"
    folder.mkdir()
    server.cut(step, 1)
    with server.board() as board:
        if step in FIRST:
            with pytest.raises(BoardError, match=rf"ssh://someone@127\.0\.0\.1:{server.port}: "):
                board.run_agent(infer_job(folder), timeout_seconds=60)
        board.run_agent(infer_job(folder), timeout_seconds=60)
    assert server.cuts == 0
    assert finished(folder)
    assert eventually(lambda: clean(server))


@pytest.mark.parametrize("step", STEPS)
def test_a_connection_that_is_cut_again_and_again_is_a_clear_error(server: Server, tmp_path: Path, step: str) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    server.cut(step, 100)
    with server.board() as board:
        if step == "clean up":
            board.run_agent(infer_job(folder), timeout_seconds=60)
        else:
            with pytest.raises(BoardError, match=rf"ssh://someone@127\.0\.0\.1:{server.port}: ") as caught:
                board.run_agent(infer_job(folder), timeout_seconds=60)
            assert caught.value.exit_code == 1
    assert finished(folder) == (step == "clean up")
    assert eventually(lambda: clean(server))


@pytest.mark.parametrize("room", [0, 20_000, Path(agent.__file__).stat().st_size + 100])
def test_a_full_disk_is_told_and_the_board_is_clean(server: Server, tmp_path: Path, room: int) -> None:
    """Full before the agent, within it, and within the model."""
    server.room = room
    with server.board() as board, pytest.raises(BoardError) as caught:
        board.run_agent(infer_job(tmp_path), timeout_seconds=60)
    assert re.fullmatch(
        rf"ssh://someone@127\.0\.0\.1:{server.port}: \S+ cannot be written: Failure; \d+ bytes needed, \d+ free there",
        str(caught.value),
    )
    server.room = None
    assert eventually(lambda: clean(server))
    with server.board() as board:
        board.run_agent(infer_job(tmp_path), timeout_seconds=60)


def test_a_disk_that_is_too_small_for_a_model_is_told_before_it_is_sent(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of terabytes that holds nothing, and is not read: no disk has room for it."""
    monkeypatch.setattr(agent, "sha256_of", lambda path: path)
    (tmp_path / "huge.onnx").touch()
    os.truncate(tmp_path / "huge.onnx", 1 << 42)
    job = bench_job(tmp_path, models=[{"name": "huge", "path": str(tmp_path / "huge.onnx")}])
    needed = (1 << 42) + Path(agent.__file__).stat().st_size
    with server.board() as board, pytest.raises(BoardError, match=rf"disk full: {needed} bytes needed in .* free"):
        board.run_agent(job, timeout_seconds=60)
    assert "send model" not in server.reached


def test_a_full_disk_while_the_agent_writes_is_its_own_error(server: Server, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the lease fits, the outputs do not."""
    server.prelude = "ulimit -f 1; "
    with server.board() as board, pytest.raises(KronexportError, match=r"^ssh://\S+: infer of .*File too large"):
        board.run_agent(infer_job(tmp_path), timeout_seconds=60)
    assert not (tmp_path / "outputs.npz").exists()


def test_a_board_that_reboots_is_waited_for(server: Server, tmp_path: Path) -> None:
    """Every process there dies at once, in the middle of a job; it is back a moment later."""
    folder = tmp_path / "job"
    folder.mkdir()
    with server.board(patience=(0.0, 0.2, 5.0)) as board:
        board.environment("onnxruntime")
        rebooting = in_the_middle_of_a_job(server, server.reboot)
        board.run_agent(bench_job(folder, seconds=2.0), timeout_seconds=60)
        rebooting.join()
    assert server.reached.count("connect") >= 2
    assert eventually(lambda: clean(server))


def test_a_board_that_does_not_come_back_is_a_clear_error(server: Server, tmp_path: Path) -> None:
    with server.board(patience=(0.0, 0.1)) as board:
        board.environment("onnxruntime")
        server.stop()
        with pytest.raises(BoardError, match="is the board on"):
            board.run_agent(bench_job(tmp_path), timeout_seconds=60)
    server.start()
    with server.board() as board:
        assert board.run_agent(bench_job(tmp_path), timeout_seconds=60)["models"]
    assert eventually(lambda: clean(server))


def test_a_killed_session_leaves_nothing_that_the_next_does_not_remove(server: Server, tmp_path: Path) -> None:
    """SIGKILL cannot be answered: the lease goes with the process, its agent too, the folder with the next client."""
    board = server.board(patience=())
    with board:
        board.environment("onnxruntime")
        killing = in_the_middle_of_a_job(server, server.kill_keepers)
        with pytest.raises(BoardError, match="the session there ended"):
            board.run_agent(bench_job(tmp_path, seconds=30.0), timeout_seconds=60)
        killing.join()
    assert eventually(server.is_free)
    assert len(server.leftovers()) == 1
    with server.board() as board:
        board.environment("onnxruntime")
    assert eventually(lambda: clean(server))


def test_a_host_key_that_changes_meanwhile_is_refused(server: Server, tmp_path: Path) -> None:
    with server.board(patience=(0.0, 0.0)) as board:
        board.environment("onnxruntime")
        server.stop()
        known = server.host_key
        server.host_key = asyncssh.generate_private_key("ssh-ed25519")
        server.start()
        server.know(known)
        with pytest.raises(BoardError, match="its host key is not the one"):
            board.run_agent(bench_job(tmp_path), timeout_seconds=60)


def test_a_client_that_comes_back_takes_over_from_itself(server: Server, tmp_path: Path) -> None:
    """Its first connection is cut without the board noticing: that session still has the lease."""
    with server.board() as board:
        board.environment("onnxruntime")
        (keeper,) = server.keepers()
        server.deaf = True
        server.connections[-1].abort()
        assert board.run_agent(bench_job(tmp_path), timeout_seconds=60)["models"]
        assert keeper not in server.keepers()
    assert eventually(lambda: clean(server))


def in_the_middle_of_a_job(server: Server, happens: Callable[[], object]) -> threading.Thread:
    """Lets something happen once an agent runs on the board."""

    def wait() -> None:
        assert eventually(lambda: bool(children(server)))
        happens()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread
