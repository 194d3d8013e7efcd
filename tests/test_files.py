import errno
import json
import math
import os
from pathlib import Path

import pytest

from kronexport.errors import KronexportError
from kronexport.files import (
    TEMP_PREFIX,
    atomic_folder,
    atomic_write,
    remove_leftovers,
    stdout_of_c_dropped,
    stdout_to_stderr,
    write_json_aside,
    write_text_aside,
)


class Stop(BaseException):
    """Stands for Ctrl-C: not an Exception."""


def write_then_raise(path: Path, error: BaseException) -> None:
    """Half a file, then ``error``."""
    path.write_bytes(b"half")
    raise error


def fill_disk(path: Path) -> None:
    write_then_raise(path, OSError(errno.ENOSPC, "No space left on device"))


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_text_is_written_as_utf8_with_missing_parents_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "text"
    write_text_aside(path, "µs\n")
    assert path.read_bytes() == "µs\n".encode()
    assert names(path.parent) == ["text"]


def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    refused = pytest.raises(KronexportError, match=r"report\.json: disk full: 7000 bytes needed")
    with refused as caught, atomic_write(path, needed=7000) as aside:
        fill_disk(aside)
    assert caught.value.exit_code == 1
    assert path.read_text() == "old"
    assert names(tmp_path) == ["report.json"]


def test_full_disk_says_what_was_reached_where_the_size_was_unknown(tmp_path: Path) -> None:
    with pytest.raises(KronexportError, match="more than 4 bytes needed"), atomic_write(tmp_path / "a") as aside:
        fill_disk(aside)


def test_full_disk_names_the_bytes_of_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _data: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(KronexportError, match="disk full: 5 bytes needed"):
        write_text_aside(tmp_path / "a", "12345")
    assert names(tmp_path) == []


def test_other_errors_pass_through_and_leave_no_partial_file(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic_write(tmp_path / "a") as aside:
        write_then_raise(aside, PermissionError(errno.EACCES, "denied"))
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [Stop(), ValueError("bug")])
def test_interrupted_folder_leaves_the_old_one_whole(tmp_path: Path, error: BaseException) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(type(error)), atomic_folder(folder) as aside:
        write_then_raise(aside / "new", error)
    assert names(tmp_path) == ["bundle"]
    assert names(folder) == ["old"]


def test_folder_on_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KronexportError, match="bundle: disk full"), atomic_folder(tmp_path / "bundle") as aside:
        fill_disk(aside / "model.onnx")
    assert names(tmp_path) == []


def test_folder_replaces_the_old_one_entirely(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    for name in ("first", "second"):
        with atomic_folder(folder) as aside:
            (aside / name).touch()
    assert names(folder) == ["second"]
    assert names(tmp_path) == ["bundle"]


def test_old_folder_comes_back_if_the_new_one_cannot_take_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "old").touch()
    rename = Path.rename
    moved: list[Path] = []

    def interrupted(path: Path, to: Path) -> Path:
        moved.append(path)
        if len(moved) == 2:
            raise Stop
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(Stop), atomic_folder(folder) as aside:
        (aside / "new").touch()
    assert names(tmp_path) == ["bundle"]
    assert names(folder) == ["old"]


def test_json_is_read_back_as_it_was(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None], "a": "µ"}
    write_json_aside(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_know_are_refused_by_their_key(tmp_path: Path, bad: float) -> None:
    with pytest.raises(KronexportError, match=r"a\.json: .*at figures\[1\]\.p50"):
        write_json_aside(tmp_path / "a.json", {"figures": [{"p50": 1.0}, {"p50": bad}]})
    assert names(tmp_path) == []


def test_objects_that_are_not_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KronexportError, match="not JSON serializable"):
        write_json_aside(tmp_path / "a.json", {"path": tmp_path})


def test_leftovers_of_a_killed_run_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / f"{TEMP_PREFIX}12ab-bundle").mkdir()
    (tmp_path / f"{TEMP_PREFIX}12ab-bundle" / "model.onnx").touch()
    (tmp_path / f"{TEMP_PREFIX}34cd-report.json").touch()
    (tmp_path / "report.json").touch()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["report.json"]


def test_what_c_code_prints_is_dropped_or_sent_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    """By the descriptor, as C does; afterwards stdout is as it was."""
    with stdout_of_c_dropped():
        os.write(1, b"debug\n")
    with stdout_to_stderr():
        os.write(1, b"log\n")
    os.write(1, b"result\n")
    assert capfd.readouterr() == ("result\n", "log\n")
