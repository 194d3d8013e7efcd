"""The cache: gives back what was kept, fails no run, and removes nothing that is not its own."""

import errno
import json
import logging
import os
from pathlib import Path

import pytest

from kronexport.cache import (
    cache_folder,
    cache_use,
    clean_cache,
    content_key,
    engine_cache,
    read_cached,
    store_path,
    write_cached,
)
from kronexport.files import TEMP_PREFIX
from kronexport.measure.store import MeasurementStore, conditions_of
from tests.conftest import command

KEY, OTHER = content_key(b"weight"), content_key(b"another")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of one test, which does not exist yet."""
    monkeypatch.setenv("KRONEXPORT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_is_written_is_read_again(folder: Path) -> None:
    """Under its key and no other; nothing unfinished stays beside it."""
    write_cached("scan", KEY, b"content")
    assert read_cached("scan", KEY) == b"content"
    assert read_cached("scan", OTHER) is None
    assert [path.name for path in (folder / "scan").iterdir()] == [f"{KEY}.npz"]


def test_a_key_depends_on_all_parts() -> None:
    keys = {content_key(b"1", b"weight"), content_key(b"2", b"weight"), content_key(b"1", b"weighs")}
    assert len(keys) == 3


@pytest.mark.parametrize("given", [None, ""])
def test_without_the_variable_it_is_where_the_system_keeps_caches(
    given: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty variable is none; the folder is named after the program and is not made by asking."""
    monkeypatch.delenv("KRONEXPORT_CACHE")
    if given is not None:
        monkeypatch.setenv("KRONEXPORT_CACHE", given)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache_folder().name == "kronexport"
    assert tmp_path in cache_folder().parents
    assert not cache_folder().exists()


def test_a_folder_that_cannot_be_made_is_warned_of_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file in its place: nothing is kept, nothing fails, and the message says what to set."""
    folder.write_text("a file", encoding="utf-8")
    with caplog.at_level(logging.WARNING, "kronexport"):
        for key in (KEY, OTHER):
            write_cached("scan", key, b"content")
    assert read_cached("scan", KEY) is None
    assert folder.read_text(encoding="utf-8") == "a file"
    assert [str(folder) in text and "KRONEXPORT_CACHE" in text for text in caplog.messages] == [True]


def test_a_full_disk_is_warned_of_once(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves nothing half-written."""

    def full(_path: Path, _content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with caplog.at_level(logging.WARNING, "kronexport"):
        for key in (KEY, OTHER):
            write_cached("scan", key, b"content")
    assert ["disk full" in text for text in caplog.messages] == [True]
    assert list((folder / "scan").iterdir()) == []


def test_clean_removes_what_is_ours_and_nothing_else(folder: Path) -> None:
    """What a killed run left is ours, too; a user's files and folders stay."""
    write_cached("scan", KEY, b"content")
    (folder / "scan" / f"{TEMP_PREFIX}0123abcd-{OTHER}.npz").write_bytes(b"half")
    store = store_path()
    store.parent.mkdir()
    for suffix in ("", "-wal", "-shm", ".lock", ".aside-0123abcd", ".aside-0123abcd-wal"):
        store.with_name(store.name + suffix).write_bytes(b"times")
    engine_cache().mkdir()
    for name in ("timing-8.6.2.cache", f"{TEMP_PREFIX}0123abcd-timing-8.6.2.cache"):
        (engine_cache() / name).write_bytes(b"timings")
    strangers = [
        engine_cache() / "mine.cache",
        folder / "notes.txt",
        folder / "scan" / "mine.npz",
        folder / "other" / f"{KEY}.npz",
    ]
    strangers += [folder / "scan" / f"{KEY}.txt", store.with_name("mine.sqlite"), store.with_name(f"{store.name}.bak")]
    for path in strangers:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine", encoding="utf-8")
    assert cache_use().files == 10
    assert cache_use() == clean_cache()
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == sorted(strangers)
    assert cache_use().files == 0


def test_clean_leaves_no_folder_behind_that_is_only_ours(folder: Path) -> None:
    write_cached("scan", KEY, b"content")
    assert (clean_cache().files, clean_cache().files) == (1, 0)
    assert not folder.exists()


def test_the_times_of_forms_are_a_part_of_the_cache(folder: Path) -> None:
    """``cache info`` counts them, ``cache clean`` removes them, and the next run begins anew."""
    for _ in range(2):
        with MeasurementStore() as store:
            assert store.times(conditions_of("onnxruntime", 1, "fp32")) == {}
        use = json.loads(command("cache", "info", "--json").out)
        assert (use["files"], use["bytes"]) == (1, store_path().stat().st_size)
        assert folder in store_path().parents
        assert json.loads(command("cache", "clean", "--json").out) == use
        assert not folder.exists()


def test_info_and_clean_say_where_and_how_much(folder: Path) -> None:
    """As text and as JSON; of a cache that is not there yet as well."""
    assert json.loads(command("cache", "info", "--json").out) == {"path": str(folder), "files": 0, "bytes": 0}
    write_cached("scan", KEY, b"x" * 1234)
    assert command("cache", "info").out == f"{folder}: 1 files, 1,234 bytes\n"
    assert json.loads(command("cache", "info", "--json").out) == {"path": str(folder), "files": 1, "bytes": 1234}
    assert command("cache", "clean").out == f"{folder}: removed 1 files, 1,234 bytes\n"
    assert json.loads(command("cache", "clean", "--json").out) == {"path": str(folder), "files": 0, "bytes": 0}
