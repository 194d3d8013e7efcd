"""``build`` and ``bench`` with ``--farm``: a real agent on a board that the worker's host reaches over SSH."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kronexport.farm import fleet
from kronexport.ship.report_json import read_report_json
from tests.conftest import INPUT, SHORT, command
from tests.farm.crew import Crew
from tests.machines.server import Server, known

CPU = "x86-onnxruntime"
PLAN = f"""
version = 1
target = "{CPU}"

[[site]]
name = "3.0"
method = "gkpd"
factors = [{{ rank_axes = "a", size = [15, 1, 3, 3] }}, {{ rank_axes = "a", size = [1, 10, 1, 1] }}]
ranks = [4]
"""
"""One layer, so that few forms are raced."""


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with known(tmp_path / "ssh", monkeypatch) as server:
        yield server


@pytest.mark.usefixtures("own_cache")
def test_a_build_and_a_bench_by_a_farm_over_ssh(
    board: Server, crew: Crew, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is verified and timed there, nothing is left behind, and the report says where it was."""
    monkeypatch.setattr(fleet, "has_drifted", lambda *_: False)  # this machine is busy with other tests
    crew.hire(kind="real", device=str(board.address), lease=board.lease)
    plan, out = tmp_path / "plan.toml", tmp_path / "out"
    plan.write_text(PLAN, encoding="utf-8")
    farm = ("--farm", crew.address)
    ended = command("build", f"{network}:net", "--input", INPUT, "--plan", plan, "--out", out, *farm, *SHORT)
    assert ended.code == 0, ended.err
    report = read_report_json(out / "report.json").targets[CPU]
    assert report.speedup is not None
    assert {check.stage: check for check in report.verification}["compiled"].passed
    assert any(board.address.place in note and "farm" in note for note in report.notes)
    fetched = board.reached.count("fetch result")
    assert fetched > 0
    assert board.leftovers() == []
    assert board.is_free()

    ended = command("bench", out / CPU, *farm, "--seconds", 0.05, "--rounds", 5)
    assert ended.code == 0, ended.err
    assert board.reached.count("fetch result") > fetched
