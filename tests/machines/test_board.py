"""A job on a board over real SSH: what comes back, who is let in, and that one client has the board at a time."""

import os
import signal
import sys
import threading
from pathlib import Path

import asyncssh
import numpy as np
import openvino as ov
import pytest

from kronexport.errors import BoardError, KronexportError, MissingRuntimeError, UserInputError
from kronexport.machines import session
from kronexport.machines.address import Address
from kronexport.machines.board import Board
from kronexport.machines.here import HERE
from kronexport.machines.runner import MachineRunner
from tests.machines.jobs import bench_job
from tests.machines.server import Server, eventually
from tests.measure.samples import INPUT, SHAPE, save_model


def test_the_result_of_a_job_comes_back_and_nothing_is_left(server: Server, tmp_path: Path) -> None:
    with server.board() as board:
        assert board.place == f"someone@127.0.0.1:{server.port}"
        result = board.run_agent(bench_job(tmp_path), timeout_seconds=60)
        assert not server.is_free()
    assert result["models"][0]["latency_ms"]["n"] >= 1
    assert result["environment"]["runtime"] == "onnxruntime"
    assert eventually(server.is_free)
    assert server.leftovers() == []
    assert server.users == ["someone"]


def test_the_board_tells_of_itself(server: Server) -> None:
    with server.board() as board:
        found = board.environment("onnxruntime")
        assert found == board.environment("onnxruntime")
    here = HERE.environment("onnxruntime")
    stable = (
        "cpu_model",
        "cpu_features",
        "machine",
        "runtime_version",
        "board",
        "compatible",
        "jetson_linux",
        "power_mode",
    )
    assert {key: found[key] for key in stable} == {key: here[key] for key in stable}
    assert server.reached.count("run") == 1


def test_outputs_come_back_and_are_those_of_this_machine(server: Server, tmp_path: Path) -> None:
    """A model is sent once, however often it runs."""
    model = save_model(tmp_path / "model.onnx")
    images = np.random.default_rng(0).standard_normal((2 * SHAPE[0], *SHAPE[1:])).astype(np.float32)
    local = MachineRunner(HERE, "onnxruntime", model, 1).infer({INPUT: images})
    with server.board() as board:
        runner = MachineRunner(board, "onnxruntime", model, 1)
        first, second = runner.infer({INPUT: images}), runner.infer({INPUT: -images})
    assert list(first) == list(local)
    for name, array in local.items():
        np.testing.assert_allclose(first[name], array, rtol=1e-6)
        assert not np.array_equal(first[name], second[name])
    assert server.reached.count("send model") == 1
    assert server.reached.count("send inputs") == 2


def test_openvino_finds_its_weights_beside_the_model(server: Server, tmp_path: Path) -> None:
    ov.save_model(ov.Core().read_model(save_model(tmp_path / "model.onnx")), tmp_path / "model.xml")
    job = bench_job(tmp_path, runtime="openvino", models=[{"name": "ir", "path": str(tmp_path / "model.xml")}])
    with server.board() as board:
        assert board.run_agent(job, timeout_seconds=60)["environment"]["runtime"] == "openvino"


def test_models_of_earlier_jobs_do_not_fill_the_board(server: Server, tmp_path: Path) -> None:
    with server.board() as board:
        for number in range(2):
            folder = tmp_path / str(number)
            folder.mkdir()
            job = bench_job(folder)
            Path(job["models"][0]["path"]).rename(folder / f"{number}.onnx")
            job["models"][0]["path"] = str(folder / f"{number}.onnx")
            board.run_agent(job, timeout_seconds=60)
        assert [path.name for path in server.home.glob(".cache/kronexport-board/*/*/*/*.onnx")] == ["1.onnx"]


# --- errors of a job --------------------------------------------------------------------------------------------


def test_the_agents_errors_are_those_of_here_with_the_boards_address(server: Server, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"garbage")
    with server.board() as board:
        at = rf"^ssh://someone@127\.0\.0\.1:{server.port}: bench of"
        with pytest.raises(UserInputError, match=rf"{at} tiny on onnxruntime: job: threads: got 0"):
            board.run_agent(bench_job(tmp_path, threads=0), timeout_seconds=60)
        broken = bench_job(tmp_path, models=[{"name": "broken", "path": str(tmp_path / "broken.onnx")}])
        with pytest.raises(KronexportError, match=rf"{at} broken .*cannot load this model") as caught:
            board.run_agent(broken, timeout_seconds=60)
        assert type(caught.value) is KronexportError
        with pytest.raises(KronexportError, match=rf"{at} tiny on onnxruntime: no result within 0 s"):
            board.run_agent(bench_job(tmp_path, seconds=30.0), timeout_seconds=0.3)
        assert board.run_agent(bench_job(tmp_path), timeout_seconds=60)["models"]


def test_a_killed_agent_is_explained_and_the_board_goes_on(server: Server, tmp_path: Path) -> None:
    """As when memory runs out there; the connection is none the worse."""
    with server.board() as board:
        board.environment("onnxruntime")
        killer = threading.Thread(target=kill_agent, args=(server,))
        killer.start()
        with pytest.raises(KronexportError, match=r"^ssh://.*ended by SIGKILL.*memory"):
            board.run_agent(bench_job(tmp_path, seconds=30.0), timeout_seconds=60)
        killer.join()
        assert board.run_agent(bench_job(tmp_path), timeout_seconds=60)["models"]
    assert server.reached.count("connect") == 1


def kill_agent(server: Server) -> None:
    """SIGKILL to the child of the keeper, once it has one."""
    assert eventually(lambda: bool(children(server)))
    for pid in children(server):
        os.kill(pid, signal.SIGKILL)


def children(server: Server) -> list[int]:
    found = []
    for keeper in server.keepers():
        for task in Path(f"/proc/{keeper}/task").glob("*/children"):
            found += [int(pid) for pid in task.read_text(encoding="ascii").split()]
    return found


def test_ctrl_c_ends_the_agent_there_and_frees_the_board(server: Server, tmp_path: Path) -> None:
    main = threading.main_thread().ident
    assert main is not None
    previous = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # tests in the background inherit that it is ignored

    def interrupt() -> None:
        assert eventually(lambda: bool(children(server)))
        signal.pthread_kill(main, signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    try:
        with server.board() as board:
            interrupting.start()
            with pytest.raises(KeyboardInterrupt):
                board.run_agent(bench_job(tmp_path, seconds=60.0), timeout_seconds=120)
            interrupting.join()
    finally:
        signal.signal(signal.SIGINT, previous)
    assert eventually(lambda: server.is_free() and server.keepers() == [])
    assert server.leftovers() == []


# --- one client at a time ---------------------------------------------------------------------------------------


def test_a_second_client_is_told_who_has_the_board_and_since_when(server: Server, tmp_path: Path) -> None:
    with server.board() as first:
        first.environment("onnxruntime")
        with (
            server.board() as second,
            pytest.raises(BoardError, match=r"in use by \S+ from \S+ since 20\d\d-.*process \d+"),
        ):
            second.run_agent(bench_job(tmp_path), timeout_seconds=60)
        assert first.run_agent(bench_job(tmp_path), timeout_seconds=60)["models"]
    with server.board() as second:
        assert second.run_agent(bench_job(tmp_path), timeout_seconds=60)["models"]


def test_of_two_clients_at_once_one_gets_the_board(server: Server, tmp_path: Path) -> None:
    outcomes: list[str] = []
    together = threading.Barrier(2)

    def client(folder: Path) -> None:
        folder.mkdir()
        job = bench_job(folder, seconds=0.5)
        with server.board() as board:
            together.wait()
            try:
                board.run_agent(job, timeout_seconds=60)
                outcomes.append("finished")
            except BoardError as error:
                outcomes.append("in use" if "in use" in str(error) else str(error))
            together.wait()

    threads = [threading.Thread(target=client, args=(tmp_path / name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["finished", "in use"]
    assert eventually(server.is_free)
    assert server.leftovers() == []


def test_a_silent_client_loses_the_board(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose network went away without a word: its connection is never closed."""
    monkeypatch.setattr(session, "SILENCE_SECONDS", 2.0)
    monkeypatch.setattr(session, "BEAT_SECONDS", 3600.0)
    with server.board() as board:
        board._session()
        assert not server.is_free()
        assert eventually(server.is_free)
        assert server.leftovers() == []


def test_a_client_that_says_it_is_there_keeps_the_board(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while an agent runs for longer than a client may be silent."""
    monkeypatch.setattr(session, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(session, "BEAT_SECONDS", 0.1)
    with server.board() as board:
        board.run_agent(bench_job(tmp_path, seconds=1.5), timeout_seconds=60)
    assert server.reached.count("connect") == 1


# --- who is let in ----------------------------------------------------------------------------------------------


def refused(board: Board) -> str:
    with board, pytest.raises(BoardError) as caught:
        board.environment("onnxruntime")
    assert caught.value.exit_code == 1
    return str(caught.value)


def test_a_changed_host_key_is_refused(server: Server) -> None:
    server.know(asyncssh.generate_private_key("ssh-ed25519"))
    message = refused(server.board())
    assert "host key" in message
    assert f"ssh -p {server.port} someone@127.0.0.1" in message
    assert "login" not in server.reached


def test_an_unknown_host_is_refused_whatever_the_configuration_says(server: Server) -> None:
    (server.client / ".ssh" / "known_hosts").unlink()
    (server.client / ".ssh" / "config").write_text("StrictHostKeyChecking no\n", encoding="utf-8")
    assert "host key" in refused(server.board())
    (server.client / ".ssh" / "config").write_text("UserKnownHostsFile none\n", encoding="utf-8")
    assert "UserKnownHostsFile none" in refused(server.board())
    assert "login" not in server.reached


def test_a_key_that_the_board_does_not_know_is_refused(server: Server) -> None:
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(server.client / ".ssh" / "id_ed25519")
    assert "takes none of your keys" in refused(server.board())


def test_hosts_of_the_users_own_configuration_are_known(server: Server) -> None:
    text = f"Host orin\n  HostName 127.0.0.1\n  Port {server.port}\n  User someone\n"
    (server.client / ".ssh" / "config").write_text(text, encoding="utf-8")
    with Board(Address("orin"), sys.executable, str(server.lease)) as board:
        assert board.environment("onnxruntime")["runtime"] == "onnxruntime"
    assert server.users == ["someone"]


def test_a_board_that_is_off_is_not_waited_for(server: Server) -> None:
    server.stop()
    assert "is the board on" in refused(server.board(patience=(3600.0,)))


# --- what the board must have -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("python", "reason"), [("python-of-nobody", "is not there"), ("false", "does not serve")])
def test_a_missing_interpreter_is_a_missing_runtime(server: Server, python: str, reason: str) -> None:
    with server.board(python=python) as board, pytest.raises(MissingRuntimeError, match=rf"{reason}.*--device-python"):
        board.environment("onnxruntime")


@pytest.mark.parametrize("path", ["~/its python", "./its python"])
def test_an_interpreter_in_the_home_there_is_found(server: Server, path: str) -> None:
    """Also by the agent, which runs in another folder."""
    server.prelude = f"cd '{server.home}'; "
    script = server.home / "its python"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    with server.board(python=path) as board:
        assert board.environment("onnxruntime")["runtime"] == "onnxruntime"


def test_a_missing_runtime_is_told_with_its_command(server: Server) -> None:
    """An interpreter without the packages of this environment."""
    bare = Path(os.path.realpath(sys.executable))
    with server.board(python=str(bare)) as board, pytest.raises(MissingRuntimeError, match="pip install"):
        board.environment("onnxruntime")


def test_a_missing_program_is_a_missing_runtime_there_as_here(server: Server) -> None:
    with server.board() as board:
        for machine, at in ((board, rf"ssh://\S+:{server.port}: "), (HERE, "")):
            with pytest.raises(MissingRuntimeError, match=f"^{at}no-such-program: No such file .*; install it"):
                machine.in_folder(lambda place: place.run(("no-such-program",), 5))


def test_what_a_login_script_prints_does_no_harm(server: Server) -> None:
    server.prelude = "echo welcome to this board; "
    with server.board() as board:
        assert board.environment("onnxruntime")["runtime"] == "onnxruntime"
