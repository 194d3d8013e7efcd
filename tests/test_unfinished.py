"""What is interrupted or meets a full disk leaves nothing half-written, and the next run starts clean."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest

from kronexport.files import TEMP_PREFIX
from tests.conftest import INPUT, SHORT, command

# --- a full disk: a double of the call that writes says so, since no test may fill a real one --------------------


@dataclass(frozen=True)
class FullDisk:
    """Makes ``owner.name`` fail with ENOSPC for paths that end in ``file``, before or behind temporary names."""

    owner: Any
    name: str
    file: str

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = getattr(self.owner, self.name)

        def write(*arguments: Any, **options: Any) -> Any:
            paths = [str(argument) for argument in arguments if isinstance(argument, str | os.PathLike)]
            names = [getattr(argument, "name", "") for argument in arguments if not isinstance(argument, Path)]
            if any(str(path).endswith(self.file) for path in (*paths, *names)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.file)
            return real(*arguments, **options)

        monkeypatch.setattr(self.owner, self.name, write)


FULL_DISKS = [
    FullDisk(Path, "write_bytes", "config.toml"),
    FullDisk(onnx_ir, "save", "dense.onnx"),
    FullDisk(onnx_ir, "save", "lowered.onnx"),
    FullDisk(Path, "write_bytes", "build_engine.sh"),
    FullDisk(Path, "write_bytes", "factors.safetensors"),
    FullDisk(shutil, "copy", "model.onnx"),
    FullDisk(np, "savez", "golden.npz"),
    FullDisk(Path, "write_bytes", "report.json"),
    FullDisk(Path, "write_bytes", "report.html"),
]


@pytest.mark.parametrize("disk", FULL_DISKS, ids=lambda disk: disk.file)
def test_a_full_disk_ends_in_1_and_nothing_is_half_written(
    disk: FullDisk, network: Path, built_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over an earlier build: its bundle is as it was or the whole new one, and no temporary name is left."""
    disk.install(monkeypatch)
    ended = command("build", f"{network}:net", "--input", INPUT, "--target", "jetson", "--out", built_copy, *SHORT)
    assert ended.code == 1, ended.err
    assert "Traceback" not in ended.err
    assert "disk full" in ended.err or "No space left on device" in ended.err
    assert "ree some space or choose another folder with --out" in ended.err
    assert unfinished(built_copy) == []
    for bundle in ("jetson-orin-nano", "x86-onnxruntime"):
        assert_whole(built_copy / bundle)
    json.loads((built_copy / "report.json").read_text(encoding="utf-8"))


def unfinished(folder: Path) -> list[Path]:
    """Whatever bears a temporary name; the marker of an output folder is none."""
    return sorted(path for path in folder.rglob(f"{TEMP_PREFIX}*") if path.name != TEMP_PREFIX.rstrip("-"))


def assert_whole(bundle: Path) -> None:
    """Every file is there, unaltered, and no other is."""
    lines = (bundle / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = {path.name: path for path in bundle.iterdir() if path.name != "SHA256SUMS"}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == sums


# --- Ctrl-C: a real process and a real signal ---------------------------------------------------------------------

AS_FROM_A_TERMINAL = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from kronexport.cli import main; main()"
)
"""A test run in the background would hand on that SIGINT is ignored."""


def stopped_at(stage: str, stop: signal.Signals, *arguments: object) -> tuple[int, str]:
    """Exit code and stderr of a build whose process group gets ``stop``, as from a terminal, when ``stage`` begins."""
    line = [sys.executable, "-c", AS_FROM_A_TERMINAL, *map(str, arguments)]
    with subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        said = ""
        for text in process.stderr:
            said += text
            if text.strip() == stage:
                os.killpg(process.pid, stop)
                break
        said += process.stderr.read()
        return process.wait(timeout=60), said


@pytest.mark.parametrize(
    ("stage", "stop", "expected"),
    [
        ("verify compressed", signal.SIGINT, (130, "interrupted")),
        ("measure", signal.SIGTERM, (143, "terminated")),
    ],
)
def test_a_build_that_is_stopped_leaves_nothing_half_written(
    stage: str, stop: signal.Signals, expected: tuple[int, str], network: Path, tmp_path: Path
) -> None:
    """The next run into the same folder succeeds. Both stages have a process of their own at work."""
    line = ("build", f"{network}:net", "--input", INPUT, "--target", "cpu", "--out", tmp_path / "out", *SHORT)
    code, said = stopped_at(stage, stop, *line, "--time-budget", "1s", "--set", "measure.seconds=60")
    assert code == expected[0], said
    assert f"{expected[1]}; nothing half-written was left" in said
    assert "Traceback" not in said
    assert unfinished(tmp_path) == []
    assert not (tmp_path / "out" / "x86-onnxruntime").exists()
    assert not (tmp_path / "out" / "report.json").exists()
    again = command(*line)
    assert again.code == 0, again.err
    assert_whole(tmp_path / "out" / "x86-onnxruntime")


def test_a_build_that_is_terminated_in_the_users_code_ends_as_terminated(tmp_path: Path) -> None:
    """Not as an error of that code."""
    slow = (
        "import sys, time\ndef net():\n    print('in the factory', file=sys.stderr, flush=True)\n    time.sleep(60)\n"
    )
    (tmp_path / "slow.py").write_text(slow, encoding="utf-8")
    line = ("build", f"{tmp_path}/slow.py:net", "--input", INPUT, "--target", "cpu", "--out", tmp_path / "out")
    code, said = stopped_at("in the factory", signal.SIGTERM, *line)
    assert code == 143, said
    assert "terminated; nothing half-written was left" in said
