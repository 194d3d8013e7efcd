"""A plan as a file: ``kronexport plan`` writes it, people edit it, ``build --plan`` takes it."""

import json
import shlex
import tomllib
from pathlib import Path

import pytest

from kronexport.records import Report
from kronexport.ship.report_json import read_report_json
from tests.conftest import INPUT, SHORT, TARGETS, Built, Ended, command

CPU, _, BOARD = TARGETS


def build(network: Path, out: Path, *arguments: object) -> Ended:
    return command("build", f"{network}:net", "--input", INPUT, "--out", out, *arguments, *SHORT)


def plan(network: Path, *arguments: object) -> Ended:
    return command("plan", f"{network}:net", "--input", INPUT, *SHORT, *arguments)


def report_of(folder: Path) -> Report:
    return read_report_json(folder / "report.json")


def plan_of(folder: Path, target: str) -> Path:
    return folder / "intermediates" / target / "plan.toml"


# --- kronexport plan ----------------------------------------------------------------------------------------------


def test_plan_prints_what_a_dry_run_does(network: Path, tmp_path: Path) -> None:
    """As a table and as JSON, and writes nothing; once all is timed both read the store alone."""
    plan(network, "--target", "cpu")
    for form in ((), ("--json",)):
        asked = ("--target", "cpu", "--target", "jetson", *form)
        ended = plan(network, *asked)
        assert ended.code == 0, ended.err
        assert ended.out == build(network, tmp_path / "out", *asked, "--dry-run").out
    found = json.loads(ended.out)
    assert list(found["targets"]) == [CPU, BOARD]
    for target, basis in ((CPU, "measured"), (BOARD, "roofline")):
        assert [point["basis"] for point in found["pareto"][target] if point["chosen"]] == [basis]
        assert found["notes"][target][0].startswith("cost model")
    assert list(tmp_path.iterdir()) == []


def test_plan_writes_the_file_that_a_build_writes(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cache where nothing is measured in between."""
    monkeypatch.setenv("KRONEXPORT_CACHE", str(tmp_path / "cache"))
    ended = plan(network, "--target", "cpu", "--out", tmp_path / "plan.toml")
    assert ended.code == 0, ended.err
    assert "plan for x86-onnxruntime" in ended.out
    assert "what else could be chosen" in ended.out
    assert "note: cost model" in ended.out
    assert build(network, tmp_path / "out", "--target", "cpu").code == 0
    assert (tmp_path / "plan.toml").read_text() == plan_of(tmp_path / "out", CPU).read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--target", "cpu", "--target", "jetson", "--out", "plan.toml"), ("is for one target", "one --target at a")),
        (("--out", "."), ("is a folder", "expected a file to write")),
        (("--out", "none/plan.toml"), ("there is no folder none", "such as plan.toml")),
    ],
)
def test_a_plan_that_cannot_be_written_is_refused_before_any_work(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = plan(network, *arguments)
    assert (ended.code, ended.out) == (2, "")
    for word in words:
        assert word in ended.err
    assert "scan" not in ended.err
    assert list(tmp_path.iterdir()) == []


# --- build --plan -------------------------------------------------------------------------------------------------


def test_a_build_s_own_plan_gives_the_same_model(network: Path, built: Built, tmp_path: Path) -> None:
    """The plan's target is the target, nothing is scanned, no goal is set, and the rebuild command names the plan."""
    ended = build(network, tmp_path / "out", "--plan", plan_of(built.folder, BOARD))
    assert ended.code == 0, ended.err
    assert "scan" not in ended.err
    first, again = report_of(built.folder).targets[BOARD], report_of(tmp_path / "out")
    assert list(again.targets) == [BOARD]
    assert again.targets[BOARD].layers == first.layers
    assert again.targets[BOARD].goals == ()
    assert "structures and lowerings are those of the plan that was given" in again.targets[BOARD].notes
    words = shlex.split(json.loads((tmp_path / "out" / BOARD / "manifest.json").read_text())["rebuild"])
    assert words[words.index("--plan") + 1] == "plan.toml"
    written = tomllib.loads((tmp_path / "out" / "config.toml").read_text())
    assert (written["target"], written["goal"]) == ([BOARD], [])


BY_HAND = """
version = 1
target = "cpu"

[[site]]
name = "1.0"
method = "gkpd"
factors = [{rank_axes = "a", size = [10, 1, 1, 1]}, {rank_axes = "a", size = [1, 6, 4, 4]}]
ranks = [5]
lowering = "folded-1-2"

[[site]]
name = "0.0"
method = "tucker2"
ranks = [3, 2]
[[site.factors]]
rank_axes = "a"
size = [6, 1, 1, 1]
[[site.factors]]
rank_axes = "b"
size = [1, 3, 1, 1]
[[site.factors]]
rank_axes = "ab"
size = [1, 1, 3, 3]
"""
"""In no order, of two methods, without what is not needed."""


def test_a_plan_by_hand_is_what_is_built(network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a config, whose folder it is in; what it does not name stays dense, and the goal is only judged."""
    (tmp_path / "plan.toml").write_text(BY_HAND)
    (tmp_path / "build.toml").write_text(
        f'model = "{network}:net"\ninput = "{INPUT}"\nplan = "plan.toml"\ngoal = ["params<=0.0001"]\nout = "out"\n'
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ended = command("build", "--config", tmp_path / "build.toml", *SHORT)
    assert ended.code == 5, ended.err
    assert "goal params<=0.0001 missed" in ended.err
    layers = {layer.site: layer for layer in report_of(tmp_path / "out").targets[CPU].layers}
    assert {name: (layer.method, layer.ranks) for name, layer in layers.items()} == {
        "0.0": ("tucker2", (3, 2)),
        "1.0": ("gkpd", (5,)),
        "2.0": ("dense", ()),
        "3.0": ("dense", ()),
    }
    assert layers["1.0"].lowering == "folded-1-2"
    assert 0 < layers["0.0"].rel_error < 1


def test_targets_without_a_plan_are_planned(network: Path, built: Built, tmp_path: Path) -> None:
    """Each as if it were alone; the errors of the given plan are not known before its factors are."""
    targets = ("--target", "cpu", "--target", "jetson")
    ended = build(network, tmp_path / "out", "--plan", plan_of(built.folder, CPU), *targets, "--dry-run", "--json")
    assert ended.code == 0, ended.err
    plans = json.loads(ended.out)["targets"]
    for target in (CPU, BOARD):
        rows = [(row["site"], row["lowering"]) for row in plans[target]]
        assert rows == [(layer.site, layer.lowering) for layer in report_of(built.folder).targets[target].layers]
    assert {row["rel_error"] for row in plans[CPU] if row["structure"]} == {None}


def test_a_plan_for_a_target_that_is_not_built(network: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(BY_HAND)
    ended = build(network, tmp_path / "out", "--plan", tmp_path / "plan.toml", "--target", "jetson")
    assert ended.code == 2
    assert "target: got 'cpu', expected one of those that are built: jetson-orin-nano; give --target cpu" in ended.err


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("version = 1", "version = 3", "version: got 3, expected 1"),
        ("version = 1", "version = 1\nrank = 3", "rank: unknown key"),
        ("[[site]]", "[[site]", "not TOML"),
        ('"1.0"', '"1.1"', "site 1.1: is no layer that can be factorized"),
        ("[10, 1, 1, 1]", "[9, 1, 1, 1]", "site 1.0: factors: 9x1x1x1 * 1x6x4x4 multiply to (9, 6, 4, 4)"),
        ("folded-1-2", "folded-3", "site 1.0: lowering: got 'folded-3', expected one of dense, grouped-1-2"),
    ],
)
def test_a_plan_that_does_not_fit_ends_in_2(network: Path, tmp_path: Path, old: str, new: str, says: str) -> None:
    """With the file's name, and nothing written."""
    (tmp_path / "plan.toml").write_text(BY_HAND.replace(old, new, 1))
    ended = build(network, tmp_path / "out", "--plan", tmp_path / "plan.toml")
    assert (ended.code, ended.out) == (2, "")
    assert f"error: --plan {tmp_path / 'plan.toml'}: " in ended.err
    assert says in ended.err
    assert not (tmp_path / "out").exists()
