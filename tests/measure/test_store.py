"""The store: gives back what was kept, to several processes at once, after kill -9, and never fails a run."""

import json
import logging
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from kronexport import agent
from kronexport.errors import MissingRuntimeError
from kronexport.measure import store as module
from kronexport.measure.race import RaceTiming
from kronexport.measure.store import (
    SCHEMA_VERSION,
    Conditions,
    MeasurementStore,
    StoredTime,
    conditions_in,
    conditions_of,
)
from kronexport.measure.work import WORK_VERSION, ConvWork, Work

HERE = Conditions("A CPU", "x86_64", "onnxruntime", "1.2.3", 1, "fp32", {"spinning": True})
TIME = StoredTime("form", "dense", 2.0, 1e-3, 1.25e-3, 1.5e-3, 5e-4, 40, 10, "2026-01-02T03:04:05+00:00")
WORK = Work((ConvWork(1, 2, 3, 4, 9, 30, 20),), (7, 8), (9,))

WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from tests.measure.test_store import HERE, TIME
from kronexport.measure.store import MeasurementStore
path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sys.stdin.readline()  # the processes are imported by now, and begin together
with MeasurementStore(path) as store:
    for index in range(count):
        store.keep(HERE, [replace(TIME, model=f"{name} {index}")], {f"{name} {index} too": "refused"})
        print(index, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store is to be; not there yet."""
    return tmp_path / "measure" / "times.sqlite"


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    """A process that keeps ``count`` times once it gets a line, and says after each that it has."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def start_together(*writers: subprocess.Popen[str]) -> None:
    for each in writers:
        _open(each.stdin).write("\n")
    for each in writers:
        _open(each.stdin).flush()


def _open(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def models(path: Path) -> set[str]:
    with MeasurementStore(path) as store:
        return {model for model, _ in store.times(HERE)}


def keep(path: Path, *times: StoredTime, failures: dict[str, str] | None = None) -> None:
    with MeasurementStore(path) as store:
        store.keep(HERE, times, failures or {})


def asides(path: Path) -> list[Path]:
    return [each for each in path.parent.glob("*.aside-*") if re.fullmatch(r".*aside-[0-9a-f]+", each.name)]


# --- what is kept ---------------------------------------------------------------------------------------------


def test_what_is_kept_is_found_again(path: Path) -> None:
    """In another session, by the same conditions alone."""
    keep(path, TIME, replace(TIME, model="other"), failures={"broken": "the runtime's words"})
    with MeasurementStore(path) as store:
        assert store.times(HERE) == {("form", "dense"): TIME, ("other", "dense"): replace(TIME, model="other")}
        assert store.failures(HERE) == {"broken": "the runtime's words"}


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu": "another"},
        {"cpu": None},
        {"machine": "aarch64"},
        {"runtime": "openvino"},
        {"runtime_version": "1.2.4"},
        {"threads": 2},
        {"precision": "int8"},
        {"options": {"spinning": False}},
        {"timing": RaceTiming(seconds=0.01)},
        {"features": ("avx2",)},
        {"cores": 2},
        {"cpu_quota": "100000 100000"},
    ],
    ids=str,
)
def test_other_conditions_know_nothing_of_it(changes: dict[str, object], path: Path) -> None:
    keep(path, TIME, failures={"broken": "why"})
    with MeasurementStore(path) as store:
        other = replace(HERE, **changes)  # type: ignore[arg-type]  # a table of fields
        assert (store.times(other), store.failures(other)) == ({}, {})


def test_the_first_time_of_a_model_stays(path: Path) -> None:
    """What a plan was made by does not change under it."""
    quiet, loud = replace(TIME, floor=1e-3, speedup=2.5), replace(TIME, floor=2e-3, n=9)
    for first, second in ((quiet, loud), (loud, quiet)):
        keep(path, replace(first, model=f"{first.n}"), replace(second, model=f"{first.n}"))
        with MeasurementStore(path) as store:
            assert store.times(HERE)[f"{first.n}", "dense"] == replace(first, model=f"{first.n}")


def test_a_model_has_a_time_for_each_reference(path: Path) -> None:
    keep(path, TIME, replace(TIME, reference="other", speedup=3.0))
    with MeasurementStore(path) as store:
        assert {pair: time.speedup for pair, time in store.times(HERE).items()} == {
            ("form", "dense"): 2.0,
            ("form", "other"): 3.0,
        }


def test_what_models_do_is_kept_whatever_the_conditions(path: Path) -> None:
    with MeasurementStore(path) as store:
        store.describe({"form": WORK, "dense": Work(())})
        store.describe({"dense": Work((), (5,))})
    with MeasurementStore(path) as store:
        assert store.work() == {"form": WORK, "dense": Work((), (5,))}


def test_what_an_earlier_version_said_of_a_model_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its times stay; it is described again when it comes up again."""
    keep(path, TIME)
    with MeasurementStore(path) as store:
        store.describe({"form": WORK})
        monkeypatch.setattr(module, "WORK_VERSION", WORK_VERSION + 1)
        assert store.work() == {}
        assert ("form", "dense") in store.times(HERE)
        store.describe({"form": WORK})
        assert store.work() == {"form": WORK}


def test_conditions_are_those_of_this_machine() -> None:
    here = conditions_of("openvino", 2, "fp32")
    found = agent.machine_environment("openvino", 2, {}, {})
    assert (here.cpu, here.machine, here.threads) == (found["cpu_model"], found["machine"], 2)
    assert here.features == found["cpu_features"]
    assert here.runtime_version == agent.runtime_version("openvino")
    assert json.loads(here.description)["options"] == {"inference_precision": "f32"}


def test_times_of_another_power_mode_have_nothing_to_do_with_these() -> None:
    """A machine without modes is described as it always was."""
    slow, fast = replace(HERE, power_mode="15W"), replace(HERE, power_mode="MAXN")
    assert len({HERE.description, slow.description, fast.description}) == 3
    assert "power_mode" not in HERE.description


def test_threads_are_timed_on_the_cores_and_the_quota_that_they_may_use() -> None:
    """As under taskset, or in a container; one thread with a core to itself is described as it always was."""
    found = agent.machine_environment("onnxruntime", 4, {}, {}) | {"affinity": [0, 2], "cpu_quota": "max 100000"}
    free = conditions_in(found, "onnxruntime", 4, "fp32")
    held = conditions_in(found | {"cpu_quota": "150000 100000"}, "onnxruntime", 4, "fp32")
    assert (free.cores, free.cpu_quota, held.cpu_quota) == (2, None, "150000 100000")
    one = conditions_in(found | {"cpu_quota": "150000 100000"}, "onnxruntime", 1, "fp32")
    assert (one.cores, one.cpu_quota) == (None, None)
    assert conditions_in(found | {"cpu_quota": "50000 100000"}, "onnxruntime", 1, "fp32").cpu_quota is not None
    assert "cores" not in one.description


def test_a_runtime_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "trtexec_path", lambda: None)
    with pytest.raises(MissingRuntimeError, match="trtexec"):
        conditions_of("tensorrt", 1, "fp32")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingRuntimeError, match="pip install openvino"):
        conditions_of("openvino", 1, "fp32")


# --- several processes ----------------------------------------------------------------------------------------


def test_two_processes_write_at_once_and_nothing_is_lost(path: Path) -> None:
    """The file is not there yet: both make it."""
    pair = [writer(path, name, 60) for name in ("first", "second")]
    start_together(*pair)
    for each in pair:
        _, stderr = each.communicate(timeout=120)
        assert (each.returncode, stderr) == (0, "")
    assert models(path) == {f"{name} {index}" for name in ("first", "second") for index in range(60)}


def test_a_killed_process_leaves_what_it_kept(path: Path) -> None:
    """SIGKILL in the midst of writing: all that was kept is there, at most one more, and the file is whole."""
    victim = writer(path, "victim", 100_000)
    start_together(victim)
    said = [_open(victim.stdout).readline() for _ in range(40)]
    victim.kill()
    said += _open(victim.stdout).readlines()
    victim.communicate(timeout=30)
    whole = [line for line in said if line.endswith("\n")]
    found = models(path)
    assert 0 <= len(found) - len(whole) <= 1
    assert {f"victim {int(line)}" for line in whole} <= found
    assert asides(path) == []
    keep(path, TIME)


def test_two_processes_find_a_damaged_file_and_one_sets_it_aside(path: Path) -> None:
    """The second must not take the new store for the damaged one."""
    path.parent.mkdir()
    path.write_bytes(b"garbage" * 1000)
    pair = [writer(path, name, 20) for name in ("first", "second")]
    start_together(*pair)
    errors = [each.communicate(timeout=120)[1] for each in pair]
    assert [each.returncode for each in pair] == [0, 0]
    assert "".join(errors).count("measured again") == 1
    assert len(asides(path)) == 1
    assert len(models(path)) == 40


# --- files that are no use ------------------------------------------------------------------------------------


def damage_middle(path: Path) -> None:
    """Pages of a store with content, overwritten; its header is whole."""
    keep(path, *(replace(TIME, model=f"form {index}") for index in range(200)))
    content = bytearray(path.read_bytes())
    content[4096 : len(content) // 2] = b"\xa5" * (len(content) // 2 - 4096)
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    keep(path, *(replace(TIME, model=f"form {index}") for index in range(200)))
    path.write_bytes(path.read_bytes()[:5000])


def other_version(path: Path) -> None:
    keep(path, TIME)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")


def other_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")


def garbage(path: Path) -> None:
    path.write_bytes(b"garbage" * 1000)


@pytest.mark.parametrize("spoil", [garbage, damage_middle, cut_off, other_version, other_database])
def test_a_file_that_is_no_use_is_set_aside(spoil: object, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With one warning that names it; its content stays for whoever wants it, and the store begins anew."""
    assert callable(spoil)
    path.parent.mkdir()
    spoil(path)
    content = path.read_bytes()
    with caplog.at_level(logging.WARNING, "kronexport"):
        keep(path, TIME)
    (aside,) = asides(path)
    assert aside.read_bytes() == content
    assert [str(path) in text and aside.name in text for text in caplog.messages] == [True]
    assert models(path) == {"form"}


def test_the_journal_of_a_file_goes_aside_with_it(path: Path) -> None:
    """Beside a new file of the old name it would be taken for that one's."""
    other_version(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as user:
        user.execute("CREATE TABLE more (name TEXT)")
        journal = path.with_name(f"{path.name}-wal").read_bytes()
        keep(path, replace(TIME, model="second"))
        (aside,) = asides(path)
        assert journal
        assert aside.with_name(f"{aside.name}-wal").read_bytes() == journal
    assert models(path) == {"second"}


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    """A process was killed before it wrote anything."""
    path.parent.mkdir()
    path.touch()
    keep(path, TIME)
    assert (models(path), asides(path)) == ({"form"}, [])


def test_a_folder_that_takes_no_file_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is measured is known until the end of the session."""
    (tmp_path / "cache").write_text("a file where the folder should be", encoding="utf-8")
    path = tmp_path / "cache" / "measure" / "times.sqlite"
    with caplog.at_level(logging.WARNING, "kronexport"):
        for _ in range(2):
            with MeasurementStore(path) as store:
                store.keep(HERE, [TIME], {})
                assert list(store.times(HERE)) == [("form", "dense")]
    assert ["nothing is kept for the next run" in text for text in caplog.messages] == [True]


def test_a_store_that_stops_taking_writes_goes_on_with_what_it_knows(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite refuses as it does on a full or read-only disk."""
    keep(path, TIME, failures={"broken": "why"})
    with MeasurementStore(path) as store:
        store.describe({"form": WORK})
    with MeasurementStore(path) as store, caplog.at_level(logging.WARNING, "kronexport"):
        store._connection.execute("PRAGMA query_only = ON")
        for name in ("second", "third"):
            store.keep(HERE, [replace(TIME, model=name)], {})
        assert {model for model, _ in store.times(HERE)} == {"form", "second", "third"}
        assert store.failures(HERE) == {"broken": "why"}
        assert store.work() == {"form": WORK}
    assert ["nothing is kept for the next run" in text for text in caplog.messages] == [True]
    assert models(path) == {"form"}


def test_a_store_that_another_process_holds_for_long_is_done_without(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keep(path, TIME)
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with caplog.at_level(logging.WARNING, "kronexport"):
            keep(path, replace(TIME, model="second"))
    assert ["locked" in text for text in caplog.messages] == [True]
    assert (models(path), asides(path)) == ({"form"}, [])
