"""Options, the build that they ask for, the line about the machine, and caches that forget."""

import argparse
import os
from pathlib import Path

import pytest

from benchmarks.timed import build_config, empty_cache, measured_heading, speedup_text, timing_parser
from kronexport.backends.profile import load_target
from kronexport.cache import cache_folder
from kronexport.records import Speedup


def options(*arguments: str) -> argparse.Namespace:
    return timing_parser("what").parse_args(arguments)


def test_a_build_gets_the_options() -> None:
    """A short trial is short in all that is timed."""
    config = build_config("sample:resnet20", options("--target", "openvino", "--threads", "2"), goal=("macs<=0.5",))
    assert (config.target, config.threads, config.goal) == (("openvino",), 2, ("macs<=0.5",))
    usual = config.measure
    short = build_config("sample:resnet20", options("--seconds", "0.2"), input=None).measure
    assert short.seconds == 0.2
    assert short.warmup_seconds < usual.warmup_seconds
    assert short.rounds == usual.rounds


def test_the_heading_tells_runtime_threads_and_machine() -> None:
    heading = measured_heading("what was timed", ["x", "y"], load_target("cpu"), 2)
    first, *_, last = heading.splitlines()
    assert "onnxruntime" in first
    assert "2 thread(s)" in first
    assert f"{os.cpu_count()} cores" in first
    assert first.endswith("what was timed")
    assert last == "| --- | --- |"


def test_an_empty_cache_is_forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And the one before is used again, also after an error."""
    monkeypatch.setenv("KRONEXPORT_CACHE", str(tmp_path))
    used: list[Path] = []

    def fail_within() -> None:
        with empty_cache():
            used.append(cache_folder())
            (used[0] / "file").write_text("kept")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail_within()
    assert used != [tmp_path]
    assert not used[0].exists()
    assert cache_folder() == tmp_path


def test_a_speed_up_has_its_interval() -> None:
    assert speedup_text(Speedup(1.4321, (1.371, 1.549), "faster")) == "1.43x (1.37 to 1.55)"
