"""Engines built, proven, run and timed by trtexec's double, here and on a board over real SSH; faults of the board.

Numbers are ONNX Runtime's, times and memory made up by the double: it shows that each step ends well or clearly.
"""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kronexport import agent
from kronexport.backends.fit import check_fits
from kronexport.backends.profile import load_target
from kronexport.backends.tensorrt import TensorRtBackend, is_board
from kronexport.backends.trt_machine import TrtMachine
from kronexport.errors import BoardError, KronexportError, MissingRuntimeError, UserInputError, VerificationError
from kronexport.machines.here import HERE
from kronexport.machines.runner import MachineRunner
from kronexport.measure.latency import bench_models
from kronexport.measure.layers import profile_layers
from kronexport.measure.memory import measure_memory
from kronexport.measure.setting import Setting, Timing
from kronexport.records import BatchRange, InputSpec
from kronexport.verify.outputs import run_onnx
from tests.backends.double import save_double
from tests.backends.models import SHAPE, dynamic_tiny_model, images, quantized_tiny_model, save_tiny_model
from tests.machines.jetson import PYTHON, XAVIER, furnish, timing_cache
from tests.machines.server import Server, eventually, known
from tests.machines.test_faults import clean

SPEC = InputSpec("x", SHAPE)
SHORT = Timing(seconds=0.1, rounds=3, warmup_seconds=1.0)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A board of its own for each test."""
    with known(tmp_path / "ssh", monkeypatch) as server:
        yield server


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., TrtMachine]:
    """This machine with trtexec of a release."""

    def machine(release: str = "8.6", fallback: str = "") -> TrtMachine:
        tools = tmp_path / f"tools {release}"
        tools.mkdir(exist_ok=True)
        double = save_double(tools / "trtexec", release, fallback)
        monkeypatch.setattr(agent, "trtexec_path", lambda: str(double))
        monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")  # of the agent that is started
        return TrtMachine.of(HERE)

    return machine


@contextmanager
def on_board(server: Server, release: str = "10.3", **options: Any) -> Iterator[TrtMachine]:
    furnish(server, release, **options)
    with server.board(python=PYTHON) as board:
        yield TrtMachine.of(board)


def target_of(machine: TrtMachine) -> str:
    """A target whose TensorRT is of the machine's release."""
    return {"8.5.2": "jetson@jp5.1", "8.6.2": "jetson", "10.3.0": "jetson@jp6.2"}.get(machine.tool.version, "jetson")


def compiled(machine: TrtMachine, model: Path, *, name: str = "compiled", **options: Any) -> Path:
    """The engine of ``model``, here."""
    batches = options.pop("batches", None)
    made = TensorRtBackend(machine=machine, batches=batches)
    built = made.compile(model, model.parent / name, load_target(target_of(machine)), **options)
    assert built.artifact is not None
    assert {path.name for path in built.artifact.parent.iterdir()} == {"model.engine", "build_engine.sh"}
    return built.artifact


@pytest.mark.parametrize(
    ("release", "quantize"),
    [("8.2", False), ("8.5", True), ("8.6", False), ("10.3", True), ("11.0", True)],
    ids=lambda value: {True: "int8", False: "fp32"}.get(value, value),
)
def test_an_engine_is_built_proven_run_timed_and_profiled(
    here: Callable[..., TrtMachine], release: str, tmp_path: Path, *, quantize: bool
) -> None:
    """By the options of each release: a double refuses all others."""
    machine = here(release)
    model = save_tiny_model(tmp_path / "tiny.onnx", opset=13, ir_version=7)
    if quantize:
        quantized_tiny_model(model)
    engine = compiled(machine, model)
    (known,) = machine.engines.values()
    assert known.built.proven.found == {"conv": "int8" if quantize else "fp32"}
    x = images(2)
    outputs = MachineRunner(machine, "tensorrt", engine, 1).infer({"x": x})
    near = 0.01 if quantize else 1e-5  # the double's ONNX Runtime fuses Q/DQ, and rounds some values to the next step
    assert agent.rel_l2(outputs["y"], run_onnx(model, x)["y"]) < near
    setting = Setting("tensorrt", 1, SPEC, machine=machine)
    timed = bench_models({"dense": engine, "compressed": engine}, setting, SHORT)
    assert timed.samples_ms["compressed"] == ((3.0, 4.0, 5.0, 6.0, 7.0, 8.0),) * 5, "what the double makes up"
    assert timed.latency_ms["dense"].n == 30
    assert timed.speedups["compressed"].verdict == "within noise"
    assert timed.environment["runtime_version"] == machine.tool.version
    layers = profile_layers(engine, setting)
    assert [layer.us for layer in layers if "conv" in layer.nodes] == [1000.0]


def test_memory_is_what_the_log_says_and_null_with_a_reason_where_it_does_not(
    here: Callable[..., TrtMachine], tmp_path: Path
) -> None:
    """Whole MiB of CPU and GPU together, however fast the engine; 8.2 writes no such lines."""
    found = []
    for release in ("10.3", "8.2"):
        machine = here(release)
        engine = compiled(machine, save_tiny_model(tmp_path / f"{release}.onnx", opset=13, ir_version=7), name=release)
        found.append(measure_memory(engine, Setting("tensorrt", 1, SPEC, machine=machine)))
    assert (found[0].peak_memory_bytes, found[0].build_peak_memory_bytes) == (7 * 2**20, 8 * 2**20)
    assert found[0].reason is None
    assert "trtexec's log" in found[0].method
    assert (found[1].peak_memory_bytes, found[1].build_peak_memory_bytes) == (None, None)
    assert found[1].reason == "not in the log of trtexec 8.2.1, or below 1 MiB"


def test_what_every_command_was_told_is_in_the_protocol(here: Callable[..., TrtMachine], tmp_path: Path) -> None:
    machine = here("11.0")
    engine = compiled(machine, save_tiny_model(tmp_path / "tiny.onnx"))
    protocol = bench_models({"a": engine}, Setting("tensorrt", 1, SPEC, machine=machine), Timing(6.0, 30, 0.5)).protocol
    assert (protocol["rounds"], protocol["seconds"], protocol["warmup_seconds"]) == (6, 6, 0.5)
    assert protocol["flags"] == [
        *("--useCudaGraph", "--useSpinWait", "--noDataTransfers"),
        *("--warmUp=500", "--duration=1", "--avgRuns=1"),
    ]
    assert str(tmp_path) not in str(protocol)


def test_an_engine_that_is_not_as_asked_is_refused_or_named(here: Callable[..., TrtMachine], tmp_path: Path) -> None:
    """Exit code 4: int8 was asked for, FP32 built, and trtexec ended well."""
    machine = here("8.6", "conv")
    model = quantized_tiny_model(save_tiny_model(tmp_path / "tiny.onnx"))
    made = TensorRtBackend(machine=machine)
    with pytest.raises(VerificationError, match=r"conv \(fp32 instead of int8\)"):
        made.compile(model, tmp_path / "refused", load_target("jetson"))
    assert not (tmp_path / "refused" / "model.engine").exists()
    notes = made.compile(model, tmp_path / "let be", load_target("jetson"), allow_fallback=True).notes
    assert notes[-1] == (
        "not in the precision that was asked for, let be by --allow-fallback: conv (fp32 instead of int8)"
    )


def test_samples_that_are_no_whole_batches_and_strange_engines_are_refused(
    here: Callable[..., TrtMachine], tmp_path: Path
) -> None:
    machine = here()
    engine = compiled(machine, save_tiny_model(tmp_path / "tiny.onnx"))
    (known,) = machine.engines.values()
    machine.engines[agent.sha256_of(str(engine))] = replace(known, batches=BatchRange.static(2))
    with pytest.raises(UserInputError, match="got 3 samples, expected a multiple of the batch 2"):
        MachineRunner(machine, "tensorrt", engine, 1).infer({"x": images(3)})
    (tmp_path / "strange.engine").write_bytes(b"strange")
    with pytest.raises(KronexportError, match="no engine that was built on here in this run"):
        MachineRunner(machine, "tensorrt", tmp_path / "strange.engine", 1).infer({"x": images()})
    with pytest.raises(KronexportError, match="race: TensorRT runs bench, memory, infer, profile") as caught:
        machine.run_agent({"task": "race"}, timeout_seconds=1)
    assert type(caught.value) is KronexportError, "nothing that the user gave is wrong"


def test_a_machine_with_another_chip_is_no_board_and_one_with_another_release_is_refused(
    monkeypatch: pytest.MonkeyPatch, here: Callable[..., TrtMachine]
) -> None:
    """An engine fits one GPU and one release; over SSH the release is refused the same way."""
    monkeypatch.setattr(agent, "gpus", lambda: ["nvidia,tegra194"])
    here("8.6")
    assert not is_board(load_target("jetson"))
    monkeypatch.setattr(agent, "gpus", lambda: ["nvidia,tegra234"])
    assert is_board(load_target("jetson"))
    assert not is_board(load_target("cpu"))
    with pytest.raises(MissingRuntimeError, match=r"this board has tensorrt 8\.6\.2, expected 10\.3"):
        is_board(load_target("jetson@jp6.2"))


# --- a dynamic batch --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", ["8.2", "11.0"])
def test_a_dynamic_engine_runs_and_is_timed_at_each_size(
    here: Callable[..., TrtMachine], release: str, tmp_path: Path
) -> None:
    """Within its range at once; more samples go as many at a time as is usual."""
    machine = here(release)
    model = dynamic_tiny_model(tmp_path / "tiny.onnx")
    engine = compiled(machine, model, batches=BatchRange(1, 2, 5))
    runner = MachineRunner(machine, "tensorrt", engine, 1)
    for samples in (1, 6):
        x = images(samples)
        assert agent.rel_l2(runner.infer({"x": x})["y"], run_onnx(model, x)["y"]) < 1e-5
    with pytest.raises(UserInputError, match="got 7 samples, expected a multiple of the batch 2"):
        runner.infer({"x": images(7)})
    at_five = Setting("tensorrt", 1, InputSpec("x", (5, *SHAPE[1:])), machine=machine)
    assert bench_models({"a": engine}, at_five, SHORT).protocol["input"] == {"x": [5, *SHAPE[1:]]}
    at_six = Setting("tensorrt", 1, InputSpec("x", (6, *SHAPE[1:])), machine=machine)
    with pytest.raises(KronexportError, match="does not satisfy any optimization profiles"):
        bench_models({"a": engine}, at_six, SHORT)


def test_a_dynamic_model_without_a_range_is_refused(here: Callable[..., TrtMachine], tmp_path: Path) -> None:
    with pytest.raises(KronexportError, match="dynamic batch and no range"):
        compiled(here(), dynamic_tiny_model(tmp_path / "tiny.onnx"))


# --- on a board -------------------------------------------------------------------------------------------------


def test_a_board_needs_no_numpy_and_tells_of_itself(server: Server) -> None:
    """Board, JetPack, power mode, trtexec and its release."""
    with on_board(server) as machine:
        found = machine.environment("tensorrt")
    assert found["runtime_version"] == "10.3.0"
    assert found["trtexec"] == str(server.home / "tools" / "trtexec")
    assert found["board"] == "a Jetson that is stood in for"
    assert found["compatible"] == ["nvidia,p3768-0000+p3767-0005", "nvidia,tegra234"]
    assert found["jetson_linux"].startswith("# R36")
    assert found["power_mode"] == "pmode:0000"
    assert found["numpy"] is None
    check_fits(load_target("jetson@jp6.2"), "me@orin", found)
    with pytest.raises(MissingRuntimeError, match=r"me@orin has tensorrt 10\.3\.0, expected 8\.6\.2 \(JetPack 6\.0\)"):
        check_fits(load_target("jetson"), "me@orin", found)


def test_another_board_is_refused(server: Server) -> None:
    with (
        on_board(server, compatible=XAVIER) as machine,
        pytest.raises(UserInputError, match=r"nvidia,tegra194, expected nvidia,tegra234"),
    ):
        check_fits(load_target("jetson@jp6.2"), machine.place, machine.environment("tensorrt"))


def test_a_board_without_trtexec_is_a_missing_runtime(server: Server) -> None:
    furnish(server)
    (server.home / "tools" / "trtexec").unlink()
    with server.board(python=PYTHON) as board, pytest.raises(MissingRuntimeError, match="trtexec is neither in PATH"):
        TrtMachine.of(board)


def test_an_engine_is_sent_once_at_most_and_timings_are_kept_on_the_board(server: Server, tmp_path: Path) -> None:
    """It is there already after it was built there; probes between do not remove it."""
    model = save_tiny_model(tmp_path / "tiny.onnx")
    with on_board(server) as machine:
        engine = compiled(machine, model)
        found = MachineRunner(machine, "tensorrt", engine, 1).infer({"x": images(2)})
        bench_models({"dense": engine}, Setting("tensorrt", 1, SPEC, machine=machine), SHORT)
        assert server.reached.count("send model") == 1
        assert "send engine" not in server.reached
        again = compiled(machine, model, name="again")
    assert agent.rel_l2(found["y"], run_onnx(model, images(2))["y"]) < 1e-5
    assert timing_cache(server, "10.3.0").is_file()
    assert again.read_bytes() == engine.read_bytes()
    assert eventually(lambda: clean(server))


def test_what_an_engine_did_not_write_is_not_read_of_the_one_before(server: Server, tmp_path: Path) -> None:
    """A trtexec that ends well without its file, in the folder in which another's times are."""
    with on_board(server) as machine:
        engine = compiled(machine, save_tiny_model(tmp_path / "tiny.onnx"))
        setting = Setting("tensorrt", 1, SPEC, machine=machine)
        bench_models({"dense": engine}, setting, SHORT)
        trtexec = server.home / "tools" / "trtexec"
        trtexec.write_text(SILENT, encoding="utf-8")
        with pytest.raises(BoardError, match=r"times\.json"):
            bench_models({"dense": engine}, setting, SHORT)


SILENT = """#!/bin/sh
echo '[double, not TensorRT] &&&& RUNNING TensorRT.trtexec [TensorRT v100300]'
"""


@pytest.mark.parametrize("run", range(2, 8), ids=["timings", "removal", "build", "folder", "copy", "rename"])
def test_a_connection_that_is_cut_during_a_build_is_mended(server: Server, tmp_path: Path, run: int) -> None:
    """The build is done again from its beginning, since nothing of it is left there; half an engine is nowhere."""
    with on_board(server) as machine:
        server.cut("run", 1, after=run - 1)
        engine = compiled(machine, save_tiny_model(tmp_path / "tiny.onnx"))
        assert server.cuts == 0
        assert MachineRunner(machine, "tensorrt", engine, 1).infer({"x": images()})["y"].shape == (1, 4, 8, 8)
    assert eventually(lambda: clean(server))


def test_a_connection_that_is_cut_during_timing_costs_one_round(server: Server, tmp_path: Path) -> None:
    """The engine is sent again, to a new folder; the rounds before stay."""
    with on_board(server) as machine:
        engine = compiled(machine, save_tiny_model(tmp_path / "tiny.onnx"))
        setting = Setting("tensorrt", 1, SPEC, machine=machine)
        before = server.reached.count("run")
        server.cut("run", 1, after=12)  # in the third round, once its first engine was timed
        timed = bench_models({"dense": engine, "compressed": engine}, setting, SHORT)
        runs = server.reached.count("run") - before
        lost = "the one that was cut, and the one before it in its round"
        assert runs == 2 + 2 * (10 + 2), f"two probes; with a removal before each ten runs, {lost}"
    assert [len(rounds) for rounds in timed.samples_ms.values()] == [5, 5]
    assert eventually(lambda: clean(server))


def test_a_connection_that_is_cut_again_and_again_is_a_clear_error(server: Server, tmp_path: Path) -> None:
    with on_board(server) as machine:
        server.cut("run", 100, after=1)
        with pytest.raises(BoardError, match=rf"^ssh://someone@127\.0\.0\.1:{server.port}: "):
            compiled(machine, save_tiny_model(tmp_path / "tiny.onnx"))
    assert not (tmp_path / "compiled" / "model.engine").exists()
    assert eventually(lambda: clean(server))


def test_a_full_disk_is_told_and_the_next_build_goes_on(server: Server, tmp_path: Path) -> None:
    """At the model, and as trtexec says it of its engine."""
    model = save_tiny_model(tmp_path / "tiny.onnx")
    with on_board(server) as machine:
        server.room = 10
        with pytest.raises(BoardError, match=r"cannot be written: Failure; \d+ bytes needed, \d+ free there"):
            compiled(machine, model)
        server.room = None
        assert compiled(machine, model, name="next").is_file()
    shutil.rmtree(tmp_path / "next")
    furnish(server)
    with server.board(python=PYTHON) as board:
        machine = TrtMachine.of(board)
        (server.home / "tools" / "trtexec").write_text(FULL, encoding="utf-8")
        with pytest.raises(KronexportError, match=r"^ssh://\S+: trtexec cannot build the engine .*No space left"):
            compiled(machine, model, name="next")
    assert not (tmp_path / "next" / "model.engine").exists()
    assert eventually(lambda: clean(server))


FULL = """#!/bin/sh
echo '[double, not TensorRT] [E] Saving engine to file failed: No space left on device'
exit 1
"""


def test_an_engine_in_another_precision_is_refused_on_a_board_too(server: Server, tmp_path: Path) -> None:
    with on_board(server, fallback="conv") as machine, pytest.raises(VerificationError, match="fp32 instead of int8"):
        compiled(machine, quantized_tiny_model(save_tiny_model(tmp_path / "tiny.onnx")))
    assert not (tmp_path / "compiled" / "model.engine").exists()


def test_of_two_clients_one_builds_and_the_other_is_told(server: Server, tmp_path: Path) -> None:
    outcomes: list[str] = []
    together = threading.Barrier(2)
    furnish(server)

    def client(folder: Path) -> None:
        folder.mkdir()
        model = save_tiny_model(folder / "tiny.onnx")
        with server.board(python=PYTHON) as board:
            together.wait()
            try:
                compiled(TrtMachine.of(board), model)
                outcomes.append("built")
            except BoardError as error:
                outcomes.append("in use" if "in use" in str(error) else str(error))
            together.wait()

    threads = [threading.Thread(target=client, args=(tmp_path / name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["built", "in use"]
    assert eventually(lambda: clean(server))


def test_every_line_of_the_double_says_that_it_is_one(here: Callable[..., TrtMachine]) -> None:
    machine = here()
    ended = HERE.in_folder(lambda place: place.run((machine.tool.path, "--stronglyTyped"), 60))
    assert ended.code == 1
    assert "Unknown option: --stronglyTyped" in ended.output
    assert all(line.startswith("[double, not TensorRT] ") for line in ended.output.splitlines())
