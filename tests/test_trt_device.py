"""``--target jetson --device``: a whole build on a board over SSH on loopback, whose trtexec is a double of a release.

The double's times and memory are made up: nothing here is a measurement. Outputs are those of ONNX Runtime.
"""

import json
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kronexport import request
from kronexport.machines.board import Board
from kronexport.machines.here import Here
from kronexport.records import TargetReport
from kronexport.ship.report_json import missing_reasons, read_report_json
from kronexport.survey import project
from tests.conftest import SHORT, Ended, command
from tests.machines.jetson import PYTHON, XAVIER, furnish, timing_cache
from tests.machines.server import Server, eventually, known

INPUT = "2x3x32x32"
NAME = "input"
PLAIN, GUARDED = "jetson@jp6.2", "jetson@jp5.1"
"""A build that meets its goals, and one of a dynamic batch that misses its latency, so that dense is shipped."""

JETPACKS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    PLAIN: ("10.3", 0, ("--goal", "memory<=2")),
    GUARDED: ("8.5", 5, ("--goal", "latency<=0.9", "--dynamic-batch", "1:2:3")),
}
"""By target the release of its trtexec, the exit code, and what is asked for."""


@pytest.fixture(scope="module", autouse=True)
def nothing_runs_here() -> Iterator[None]:
    """No model is measured on this machine."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured on a machine that is not the device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Here, "run_agent", refuse)
        patch.setattr(project, "GOLDEN_BATCHES", 1)  # each is a process on the board
        yield


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One board for all tests of this file; each says what it has."""
    folder = tmp_path_factory.mktemp("ssh") / "board"
    with pytest.MonkeyPatch.context() as patch, known(folder, patch) as server:
        patch.setattr(request, "Board", partial(Board, lease=str(server.lease), patience=(0.0,)))
        yield server


def build(server: Server, network: Path, out: Path, *arguments: object) -> Ended:
    device = ("--device", server.address, "--device-python", PYTHON)
    return command("build", f"{network}:net", "--input", INPUT, "--out", out, *device, *SHORT, *arguments)


@pytest.fixture(scope="module", params=JETPACKS)
def shipped(
    server: Server, network: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[str, Path]:
    """Target and output for the board with a JetPack; only to be read."""
    release, code, asked = JETPACKS[request.param]
    furnish(server, release)
    out = tmp_path_factory.mktemp("shipped") / "out"
    ended = build(server, network, out, "--target", request.param, "--goal", "macs<=0.5", *asked)
    assert ended.code == code, ended.err
    assert "double" not in ended.out
    (target,) = read_report_json(out / "report.json").targets
    return target, out


def is_plain(shipped: tuple[str, Path]) -> bool:
    return shipped[0].endswith(PLAIN.removeprefix("jetson"))


def reported(shipped: tuple[str, Path]) -> TargetReport:
    target, out = shipped
    return read_report_json(out / "report.json").targets[target]


def test_every_figure_is_there_or_has_its_reason(shipped: tuple[str, Path]) -> None:
    """Times and memory of both networks, paired over five rounds, and the times of layers."""
    report = reported(shipped)
    assert missing_reasons(read_report_json(shipped[1] / "report.json")) == []
    for figures in (report.dense, report.compressed):
        assert figures.latency_ms is not None
        assert figures.latency_ms.n == 5 * 8, "all that the double makes up, without a warm-up"
        assert (figures.peak_memory_bytes, figures.build_peak_memory_bytes) == (7 * 2**20, 8 * 2**20)
    assert report.speedup is not None
    assert report.speedup.verdict == ("slower" if is_plain(shipped) else "within noise"), "the double's: more layers"
    assert (report.protocol["rounds"], report.protocol["clock"][:9]) == (5, "computeMs")
    assert "--useCudaGraph" in report.protocol["flags"]
    assert set(report.unmeasured) >= {"dense.accuracy", "compressed.accuracy"}
    assert not any("no device" in reason for reason in report.unmeasured.values())
    assert all(row.dense_us == 1000.0 for row in report.layers)
    assert any((row.us or 0.0) > 1000.0 for row in report.layers) is is_plain(shipped), "of several steps"


def test_numbers_were_verified_on_the_board_and_the_environment_is_its_own(
    server: Server, shipped: tuple[str, Path]
) -> None:
    report = reported(shipped)
    checks = {check.stage: check for check in report.verification}
    assert checks["compiled"].passed
    assert report.environment["board"] == "a Jetson that is stood in for"
    assert report.environment["jetson_linux"].startswith("# R36")
    assert report.environment["power_mode"] == "pmode:0000"
    assert report.environment["runtime_version"] == ("10.3.0" if is_plain(shipped) else "8.5.2")
    assert set(report.environment["before"]) >= {"clocks_mhz", "device_clocks_mhz", "temperatures_c"}
    place = server.address.place
    assert any(note.startswith(f"the engine was verified and measured on {place} (") for note in report.notes)
    chosen = "lowerings are chosen by the target's roofline" if is_plain(shipped) else "the plan leaves every conv"
    assert any(note.startswith(chosen) for note in report.notes)
    assert any(note.startswith("built by TensorRT ") for note in report.notes)


def test_the_engine_ships_with_the_key_of_what_it_fits(server: Server, shipped: tuple[str, Path]) -> None:
    target, out = shipped
    manifest: dict[str, Any] = json.loads((out / target / "manifest.json").read_text(encoding="utf-8"))
    version = reported(shipped).environment["runtime_version"]
    assert manifest["artifact"] == "model.engine"
    assert manifest["compatibility"] == f"1;tensorrt=={version};aarch64;nvidia,tegra234 sm8.7;fp32"
    assert manifest["protocol"]["flags"]
    assert {"model.engine", "build_engine.sh", "model.onnx", "golden.npz"} <= set(manifest["files"])
    assert "--device ssh://BOARD --device-python PYTHON" in manifest["rebuild"]
    assert all(server.address.place.encode() not in path.read_bytes() for path in (out / target).iterdir())
    plan = tomllib.loads((out / "intermediates" / target / "plan.toml").read_text(encoding="utf-8"))
    assert plan["basis"] == "roofline"


def test_the_board_is_left_with_its_timing_cache_alone(server: Server, shipped: tuple[str, Path]) -> None:
    assert shipped[1].is_dir()
    assert eventually(server.is_free)
    assert server.leftovers() == []
    assert timing_cache(server, reported(shipped).environment["runtime_version"]).is_file()


def test_a_missed_latency_ships_the_dense_engine(shipped: tuple[str, Path]) -> None:
    """The guard of every runtime: by the double's times the compressed network is slower."""
    report = reported(shipped)
    assert any("dense is shipped" in note for note in report.notes) is not is_plain(shipped)
    assert (report.compressed.macs == report.dense.macs) is not is_plain(shipped)


def test_a_dynamic_batch_is_verified_and_timed_at_each_size(shipped: tuple[str, Path]) -> None:
    """The script of the bundle has the range, too; a static one says no shapes."""
    target, out = shipped
    sizes = () if is_plain(shipped) else (1, 2, 3)
    report = reported(shipped)
    assert tuple(figures.batch for figures in report.dynamic_batch) == sizes
    assert all(figures.speedup is not None for figures in report.dynamic_batch)
    script = (out / target / "build_engine.sh").read_text(encoding="utf-8")
    options = [f"--{kind}Shapes=" for kind in ("min", "opt", "max")]
    assert all(f'"{option}{NAME}:{size}x3x32x32"' in script for option, size in zip(options, sizes, strict=False))
    assert (f'"--shapes={NAME}:2x3x32x32"' in script) is not is_plain(shipped)


@pytest.mark.parametrize(
    ("has", "code", "said"),
    [
        ({"release": "8.6"}, 3, "has tensorrt 8.6.2, expected 10.3 (JetPack 6.2)"),
        ({"compatible": XAVIER}, 2, "is nvidia,p2972-0000, nvidia,tegra194, expected nvidia,tegra234"),
    ],
)
def test_a_wrong_board_or_release_is_an_error_before_any_work(
    server: Server, network: Path, tmp_path: Path, *, has: dict[str, str], code: int, said: str
) -> None:
    furnish(server, **has)
    ended = build(server, network, tmp_path / "out", "--target", "jetson@jp6.2")
    assert ended.code == code
    assert said in ended.err
    assert not (tmp_path / "out").exists()
    assert eventually(server.is_free)
