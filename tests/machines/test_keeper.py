"""What runs on the board: its Python, its lease, and that it leaves when its client does."""

import ast
import fcntl
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kronexport.machines import keeper
from tests.machines.server import eventually

SOURCE = Path(keeper.__file__).read_text(encoding="utf-8")
HOLDER = {"token": "mine", "owner": "me", "pid": os.getpid(), "since": 0}


def test_source_parses_as_python_3_6_and_needs_no_package() -> None:
    tree = ast.parse(SOURCE, feature_version=(3, 6))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= set(sys.stdlib_module_names)


# --- the lease ------------------------------------------------------------------------------------------------


def test_a_lease_is_everybodys_to_take_and_one_holders_at_a_time(tmp_path: Path) -> None:
    path = str(tmp_path / "lease")
    held, _ = keeper.take_lease(path, HOLDER)
    assert held is not None
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o666
    other = {**HOLDER, "token": "other"}
    assert keeper.take_lease(path, other) == (None, HOLDER)
    keeper.free_lease(held)
    again, found = keeper.take_lease(path, other)
    assert again is not None
    assert found == other
    keeper.free_lease(again)
    assert (tmp_path / "lease").read_bytes() == b""


def test_a_lease_that_was_removed_meanwhile_is_not_the_one_that_others_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files of one name would be two leases."""
    path = tmp_path / "lease"
    lock, removals = fcntl.flock, [path]

    def removed_before(descriptor: int, operation: int) -> None:
        if removals:
            removals.pop().unlink()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removed_before)
    held, _ = keeper.take_lease(str(path), HOLDER)
    assert held is not None
    assert os.path.samestat(os.fstat(held), path.stat())
    keeper.free_lease(held)


def test_a_link_in_the_place_of_a_lease_is_refused(tmp_path: Path) -> None:
    """It stands in a folder that is everybody's: nobody may let us write elsewhere."""
    (tmp_path / "victim").write_text("precious", encoding="utf-8")
    (tmp_path / "lease").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        keeper.take_lease(str(tmp_path / "lease"), HOLDER)
    assert (tmp_path / "victim").read_text(encoding="utf-8") == "precious"


def test_a_holder_that_cannot_be_read_is_nobody_that_is_known(tmp_path: Path) -> None:
    """It has the lock, and is about to write who it is."""
    path = tmp_path / "lease"
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert keeper.take_lease(str(path), HOLDER) == (None, {})


# --- as a process -----------------------------------------------------------------------------------------------


class Kept:
    """A keeper on this machine, spoken to as a client does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, keeper.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"HOME": str(folder), "PATH": os.environ["PATH"]},
            text=True,
        )
        self.answer()

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def run(self, command: list[str], *, seconds: float = 60.0, folder: str = ".", stdout: bool = False) -> Any:
        return self.ask(do="run", command=command, seconds=seconds, folder=folder, stdout=stdout)

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return dict(json.loads(line.removeprefix(keeper.MARK)))

    def lease(self, silence: float = 60.0) -> Path:
        path = str(self.folder / "lease")
        wanted = {"do": "lease", "path": path, "token": "t", "owner": "me", "silence": silence}
        return Path(self.ask(**wanted)["folder"])

    def leave(self) -> None:
        """As when the connection is cut."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


def test_what_an_earlier_session_left_is_removed(tmp_path: Path) -> None:
    first = Kept(tmp_path)
    folder = first.lease()
    first.process.kill()
    first.leave()
    assert folder.is_dir()
    second = Kept(tmp_path)
    other = second.lease()
    assert (folder.exists(), other.is_dir()) == (False, True)
    second.leave()
    assert not other.exists()


def test_the_agent_ends_with_its_client(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    folder = kept.lease()
    script = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    command = [sys.executable, "-c", script]
    request = {"do": "run", "command": command, "seconds": 60, "folder": ".", "stdout": False}
    assert kept.process.stdin is not None
    kept.process.stdin.write(json.dumps(request) + "\n")
    kept.process.stdin.flush()
    assert eventually(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text()))
    kept.leave()
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()
    assert not folder.exists()


def test_how_a_command_ended_is_told(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.lease()
    failing = [sys.executable, "-c", "import sys; sys.exit('why')"]
    assert kept.run(failing) == {"code": 1, "output": "why\n"}
    both = [sys.executable, "-c", "import os; os.write(1, b'one '); os.write(2, b'two')"]
    assert kept.run(both)["output"] == "two"
    assert kept.run(both, stdout=True) == {"code": 0, "output": "one two"}
    dying = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    assert kept.run(dying)["code"] == -9
    endless = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert kept.run(endless, seconds=0.2)["code"] is None
    assert "No such file" in kept.run(["/nowhere"])["missing"]
    kept.leave()


def test_a_command_runs_in_a_folder_of_its_own_and_much_output_is_cut(tmp_path: Path) -> None:
    """Its end is what tells why something failed."""
    kept = Kept(tmp_path)
    folder = kept.lease()
    assert kept.run(["pwd"], folder="place", stdout=True)["output"] == f"{folder}/place\n"
    lines = [sys.executable, "-c", "print('x' * 200_000 + 'the end', end='')"]
    output = kept.run(lines, stdout=True)["output"]
    assert len(output) == keeper.OUTPUT_BYTES
    assert output.endswith("xthe end")
    kept.leave()


def test_without_a_lease_nothing_runs(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    assert kept.run(["true"]) == {"error": "no lease was taken"}
    kept.leave()


def test_files_of_no_use_go_and_the_free_space_is_told(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    folder = kept.lease()
    (folder / "kept").mkdir()
    (folder / "old").mkdir()
    (folder / "file").touch()
    assert kept.ask(do="keep", names=["kept"])["free"] > 0
    assert [path.name for path in folder.iterdir()] == ["kept"]
    assert kept.ask(do="free")["free"] > 0
    kept.leave()


def test_a_lease_in_use_looks_new(tmp_path: Path) -> None:
    """Who cleans up old files in /tmp leaves it."""
    kept = Kept(tmp_path)
    kept.lease()
    os.utime(tmp_path / "lease", (0, 0))
    assert kept.process.stdin is not None
    kept.process.stdin.write('{"do": "beat"}\n')
    kept.process.stdin.flush()
    assert eventually(lambda: (tmp_path / "lease").stat().st_mtime > time.time() - 3600)
    kept.leave()
