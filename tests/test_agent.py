"""agent.py: sessions, statistics, the machine, jobs. Bundles: test_agent_bundle.py."""

import ast
import itertools
import json
import os
import sys
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronexport import agent
from tests.measure.samples import INPUT, OUTPUT, SHAPE, expected, images, save_model

RUNTIMES = ("onnxruntime", "openvino")
SOURCE = Path(agent.__file__).read_text(encoding="utf-8")
milliseconds = st.floats(min_value=1e-3, max_value=1e4)


def job(task: str, path: Path, **changes: Any) -> dict[str, Any]:
    """A job that works, but for ``changes``."""
    keys: dict[str, dict[str, Any]] = {
        "bench": {"warmup_seconds": 0, "seconds": 0.01, "rounds": 2, "seed": 0},
        "race": {
            "warmup_seconds": 0,
            "seconds": 0.01,
            "rounds": 4,
            "seed": 0,
            "drop_after": 2,
            "drop_factor": 1e6,
        },
        "memory": {"iterations": 2, "seed": 0},
        "infer": {"outputs_npz": "unused.npz", "most": None},
    }
    common: dict[str, Any] = {
        "task": task,
        "runtime": "onnxruntime",
        "threads": 1,
        "options": {},
        "models": [{"name": "tiny", "path": str(path)}],
        "input": {"name": INPUT, "shape": list(SHAPE)},
    }
    return {**common, **keys[task], **changes}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model.onnx")


# --- the file itself ------------------------------------------------------------------------------------------


def test_source_parses_as_python_3_6() -> None:
    ast.parse(SOURCE, feature_version=(3, 6))


def test_imports_are_standard_library_of_3_6_and_numpy() -> None:
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(SOURCE))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    added_after_3_6 = {"dataclasses", "contextvars", "zoneinfo", "graphlib", "tomllib", "__future__"}
    assert imported <= (sys.stdlib_module_names - added_after_3_6) | {"numpy"}


def test_typing_names_exist_in_3_6() -> None:
    names = {
        alias.name
        for node in ast.walk(ast.parse(SOURCE))
        if isinstance(node, ast.ImportFrom) and node.module == "typing"
        for alias in node.names
    }
    assert not names & {"Literal", "Protocol", "Final", "TypedDict", "Annotated", "TypeAlias", "Self"}


# --- sessions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_session_computes_the_model_and_names_its_ports(runtime: str, model: Path) -> None:
    session = agent.open_session(runtime, str(model), 1)
    assert session.inputs == [agent.Port(INPUT, SHAPE, "float32")]
    assert session.outputs == [OUTPUT]
    outputs = session.run({INPUT: images()})
    assert agent.rel_l2(outputs[OUTPUT], expected(images())) < 1e-5


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_output_keeps_its_name_where_the_runtime_fuses_nodes(runtime: str, tmp_path: Path) -> None:
    """OpenVINO moves the Relu before the Reshape, whose tensor then has both names."""
    text = """<ir_version: 8, opset_import: ["": 17]> agraph (float[2, 3, 6, 5] image) => (float[2, 5, 6, 3] y)
    <float[3, 3, 1, 1] weight = {1, 2, 3, 4, 5, 6, 7, 8, 9}, int64[4] shape = {2, 5, 6, 3}>
    { a = Conv(image, weight)  b = Transpose<perm = [0, 3, 2, 1]>(a)  c = Reshape(b, shape)  y = Relu(c) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    session = agent.open_session(runtime, str(tmp_path / "model.onnx"), 1)
    assert session.outputs == ["y"]
    outputs = session.run({INPUT: np.ones(SHAPE, np.float32)})
    assert outputs["y"][0, 0, 0].tolist() == [6, 15, 24]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_outputs_stay_as_they_are_when_the_session_runs_again(runtime: str, model: Path) -> None:
    session = agent.open_session(runtime, str(model), 1)
    first = session.run({INPUT: images()})[OUTPUT]
    kept = first.copy()
    session.run({INPUT: images() * 3})
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("batch", [2, "batch"])
def test_infer_takes_any_multiple_of_the_batch(runtime: str, batch: int | str, tmp_path: Path) -> None:
    session = agent.open_session(runtime, str(save_model(tmp_path / "model.onnx", batch=batch)), 1)
    outputs = agent.infer(session, {INPUT: images(6)})
    assert agent.rel_l2(outputs[OUTPUT], expected(images(6))) < 1e-5


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_model_of_any_batch_takes_no_more_at_once_than_it_is_told(
    runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = agent.open_session(runtime, str(save_model(tmp_path / "model.onnx", batch="batch")), 1)
    real, seen = session.run, []

    def run(feeds: dict[str, Any]) -> Any:
        seen.append(len(feeds[INPUT]))
        return real(feeds)

    monkeypatch.setattr(session, "run", run)
    outputs = agent.infer(session, {INPUT: images(7)}, most=3)
    assert seen == [3, 3, 1]
    assert agent.rel_l2(outputs[OUTPUT], expected(images(7))) < 1e-5


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"wrong": images()}, r"got \['wrong'\]; the model takes \['image'\]"),
        ({INPUT: images()[:, :, :3]}, r"got float32 \[2, 3, 3, 5\]"),
        ({INPUT: images().astype(np.float64)}, "got float64"),
        ({INPUT: images(3)}, "got 3 samples; the model takes a multiple of its batch of 2"),
        ({INPUT: images(1)}, r"got float32 \[1, 3, 6, 5\]"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(feeds: dict[str, Any], message: str, model: Path) -> None:
    with pytest.raises(agent.AgentError, match=message) as caught:
        agent.infer(agent.open_session("onnxruntime", str(model), 1), feeds)
    assert caught.value.exit_code == 2


def test_onnxruntime_options_are_in_force_and_recorded(model: Path) -> None:
    session = agent.open_session("onnxruntime", str(model), 1, {"graph_optimization": "disabled", "spinning": False})
    settings = session._session.get_session_options()
    assert settings.graph_optimization_level.name == "ORT_DISABLE_ALL"
    assert settings.intra_op_num_threads == 1
    assert settings.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert session.options["graph_optimization"] == "disabled"
    assert session.options["spinning"] is False
    assert session.options["providers"] == ["CPUExecutionProvider"]


def test_openvino_runs_in_f32_and_records_what_it_chose(model: Path) -> None:
    session = agent.open_session("openvino", str(model), 1)
    assert session.options["inference_precision"] == "f32"
    assert session.options["INFERENCE_NUM_THREADS"] == "1"
    assert session.options["NUM_STREAMS"] == "1"


@pytest.mark.parametrize(
    ("runtime", "threads", "options", "message"),
    [
        ("tvm", 1, {}, r"got 'tvm'; use one of \['onnxruntime', 'openvino'\]"),
        ("onnxruntime", -1, {}, "got -1; use 1 or more"),
        ("onnxruntime", 1, {"colour": 1}, r"does not know \['colour'\]"),
        ("onnxruntime", 1, {"graph_optimization": "most"}, "got 'most'; use one of"),
        ("openvino", 1, {"graph_optimization": "all"}, r"it takes \['inference_precision'\]"),
    ],
)
def test_bad_session_arguments_are_refused(
    runtime: str, threads: int, options: dict[str, Any], message: str, model: Path
) -> None:
    with pytest.raises(agent.AgentError, match=message) as caught:
        agent.open_session(runtime, str(model), threads, options)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_missing_runtime_ends_with_the_pip_command(runtime: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, runtime, None)
    with pytest.raises(agent.AgentError, match=f"python -m pip install {runtime}") as caught:
        agent.open_session(runtime, str(model), 1)
    assert caught.value.exit_code == 3


def test_file_that_is_no_model_fails_with_the_runtime_s_words(tmp_path: Path) -> None:
    garbage = tmp_path / "model.onnx"
    garbage.write_bytes(b"\x00\xff" * 50)
    with pytest.raises(agent.AgentError, match="the runtime cannot load this model") as caught:
        agent.open_session("onnxruntime", str(garbage), 1)
    assert caught.value.exit_code == 1


# --- statistics -----------------------------------------------------------------------------------------------


def test_latency_stats_of_known_samples() -> None:
    stats = agent.latency_stats([1.0, 2.0, 3.0, 4.0, 100.0])
    assert stats == pytest.approx(
        {"n": 5, "min": 1, "mean": 22, "std": 43.6176, "p50": 3, "p90": 61.6, "p95": 80.8, "p99": 96.16}, rel=1e-5
    )


def test_one_sample_has_no_spread() -> None:
    assert agent.latency_stats([2.5])["std"] == 0.0


@given(st.lists(milliseconds, min_size=1, max_size=50))
def test_percentiles_are_ordered_and_bounded(samples: list[float]) -> None:
    stats = agent.latency_stats(samples)
    values = [stats["min"], stats["p50"], stats["p90"], stats["p95"], stats["p99"], max(samples)]
    slack = 1e-9 * max(samples)
    assert all(low <= high + slack for low, high in itertools.pairwise(values))
    assert stats["n"] == len(samples)


@given(st.lists(st.lists(milliseconds, min_size=1, max_size=5), min_size=5, max_size=12))
def test_twice_as_fast_in_every_round_is_exactly_2(rounds: list[list[float]]) -> None:
    candidate = [[value / 2 for value in samples] for samples in rounds]
    speedup = agent.paired_speedup(rounds, candidate)
    assert speedup == {"median": 2.0, "ci95": [2.0, 2.0], "verdict": "faster"}


@given(
    st.lists(milliseconds, min_size=5, max_size=20),
    st.lists(milliseconds, min_size=5, max_size=20),
    st.integers(0, 1000),
)
def test_verdict_follows_from_the_interval(baseline: list[float], candidate: list[float], seed: int) -> None:
    count = min(len(baseline), len(candidate))
    speedup = agent.paired_speedup([[v] for v in baseline[:count]], [[v] for v in candidate[:count]], seed)
    low, high = speedup["ci95"]
    assert low <= speedup["median"] <= high
    assert speedup["verdict"] == ("faster" if low > 1.02 else "slower" if high < 0.98 else "within noise")


def test_slow_phase_that_falls_on_a_whole_round_does_not_move_the_ratio() -> None:
    baseline = [[3.0], [30.0], [3.0], [300.0], [3.0]]
    candidate = [[6.0], [60.0], [6.0], [600.0], [6.0]]
    assert agent.paired_speedup(baseline, candidate) == {"median": 0.5, "ci95": [0.5, 0.5], "verdict": "slower"}


def test_too_few_rounds_give_no_verdict() -> None:
    assert agent.paired_speedup([[2.0]] * 4, [[1.0]] * 4)["verdict"] == "within noise"
    assert agent.paired_speedup([[2.0]] * 5, [[1.0]] * 5)["verdict"] == "faster"


def test_bootstrap_is_repeatable_by_its_seed() -> None:
    random = np.random.default_rng(0)
    baseline, candidate = random.uniform(1, 2, (20, 3)).tolist(), random.uniform(1, 2, (20, 3)).tolist()
    assert agent.paired_speedup(baseline, candidate, 5) == agent.paired_speedup(baseline, candidate, 5)


def test_rel_l2_of_known_arrays() -> None:
    assert agent.rel_l2([3.0, 4.0], [0.0, 4.0]) == 0.75
    assert agent.rel_l2([0.0], [0.0]) == 0.0
    assert agent.rel_l2([1e-30], [0.0]) == float("inf")
    assert not agent.rel_l2([float("nan")], [1.0]) <= 1.0


# --- the machine ----------------------------------------------------------------------------------------------


def test_environment_is_json_and_names_the_machine_and_the_runtime() -> None:
    environment = agent.machine_environment("onnxruntime", 2, {"spinning": True}, agent.machine_state())
    assert json.loads(json.dumps(environment)) == environment
    assert environment["logical_cores"] == os.cpu_count()
    assert environment["threads"] == 2
    assert environment["runtime_version"] == agent.runtime_version("onnxruntime")
    assert set(environment["cpu_features"]) <= set(agent.CPU_FEATURES)
    assert set(environment["before"]) == {"load_average", "clocks_mhz", "device_clocks_mhz", "temperatures_c"}


def test_a_probe_runs_nothing_and_tells_of_the_machine() -> None:
    result = agent.run_job({"task": "probe", "runtime": "onnxruntime", "threads": 1})
    assert result["environment"]["runtime_version"] == agent.runtime_version("onnxruntime")
    assert set(result) == {"task", "environment"}


def test_the_power_mode_of_a_jetson_is_what_its_tool_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvpmodel"
    tool.write_text("#!/bin/sh\necho 'NVPM WARN: fan mode is not set!'\necho 'NV Power Mode: MAXN_SUPER'\necho 2\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert agent.machine_environment("onnxruntime", 1, {}, {})["power_mode"] == "MAXN_SUPER"
    tool.write_text("#!/bin/sh\nexit 1\n")
    monkeypatch.setattr(agent, "_read_text", lambda _path: None)
    assert agent.machine_environment("onnxruntime", 1, {}, {})["power_mode"] is None


def test_what_cannot_be_read_is_null(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glob.glob", lambda _pattern: [])
    monkeypatch.setattr(agent, "_read_text", lambda _path: None)
    environment = agent.machine_environment("onnxruntime", 1, {}, agent.machine_state())
    assert environment["cpu_features"] == []
    unread = ("cpu_model", "cpu_quota", "governor", "power_mode", "board", "jetson_linux")
    assert all(environment[key] is None for key in unread)
    assert environment["after"]["clocks_mhz"] is None
    assert environment["after"]["device_clocks_mhz"] is None
    assert environment["after"]["temperatures_c"] is None


# --- TensorRT, of which trtexec alone is asked ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("banner", "version"), [("v8201", "8.2.1"), ("v8602", "8.6.2"), ("v100300", "10.3.0"), ("v110401", "11.4.1")]
)
def test_the_release_of_tensorrt_is_what_the_banner_says(
    banner: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is imported, and numpy need not be there."""
    trtexec_saying(f"&&&& RUNNING TensorRT.trtexec [TensorRT {banner}] # trtexec --help", tmp_path, monkeypatch)
    monkeypatch.setattr(agent, "np", None)
    environment = agent.run_job({"task": "probe", "runtime": "tensorrt", "threads": 1})["environment"]
    assert (environment["runtime_version"], environment["trtexec"]) == (version, str(tmp_path / "trtexec"))
    assert environment["numpy"] is None
    with pytest.raises(agent.AgentError, match="numpy is not installed; run: python -m pip install numpy") as caught:
        agent.run_job({"task": "probe", "runtime": "onnxruntime", "threads": 1})
    assert caught.value.exit_code == 3


def test_no_trtexec_and_another_program_of_that_name_are_missing_runtimes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(agent.AgentError, match="trtexec is neither in PATH nor at /usr/src/tensorrt") as caught:
        agent.runtime_version("tensorrt")
    assert caught.value.exit_code == 3
    trtexec_saying("hello", tmp_path, monkeypatch)
    with pytest.raises(agent.AgentError, match="no release of TensorRT in what it printed; is it trtexec") as caught:
        agent.runtime_version("tensorrt")
    assert caught.value.exit_code == 3


def trtexec_saying(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "trtexec").write_text(f"#!/bin/sh\necho '{text}'\n", encoding="utf-8")
    (folder / "trtexec").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


# --- jobs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_bench_keeps_every_sample_of_every_round(runtime: str, model: Path) -> None:
    models = [{"name": name, "path": str(model)} for name in ("dense", "first", "second")]
    result = agent.run_job(job("bench", model, runtime=runtime, models=models, rounds=3))
    assert [entry["name"] for entry in result["models"]] == ["dense", "first", "second"]
    for entry in result["models"]:
        assert len(entry["samples_ms"]) == 3
        assert all(samples and min(samples) > 0 for samples in entry["samples_ms"])
        assert entry["latency_ms"] == agent.latency_stats(list(itertools.chain(*entry["samples_ms"])))
    assert list(result["speedups"]) == ["first", "second"]
    assert result["protocol"]["threads"] == 1
    assert result["environment"]["runtime"] == runtime
    assert json.loads(json.dumps(result)) == result


def test_speedups_are_those_of_the_samples(model: Path) -> None:
    models = [{"name": name, "path": str(model)} for name in ("dense", "compressed")]
    result = agent.run_job(job("bench", model, models=models, rounds=6, seed=3))
    dense, compressed = (entry["samples_ms"] for entry in result["models"])
    assert result["speedups"] == {"compressed": agent.paired_speedup(dense, compressed, 3)}


def test_candidates_alternate_and_each_begins_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "SETTLE_SECONDS", 0.0)
    calls: list[str] = []
    steps: dict[str, Callable[[], Any]] = {name: partial(calls.append, name) for name in "abc"}
    agent._interleaved(steps, 3, 0.0, rest=0.0)
    assert "".join(calls) == "aabbcc" + "bbccaa" + "ccaabb"  # one to settle, one timed


@pytest.mark.parametrize(("overrun", "expected"), [(0.0, agent.MIN_ROUNDS_FOR_VERDICT), (60.0, 9)])
def test_rounds_of_long_inferences_end_early_but_not_before_a_verdict(
    monkeypatch: pytest.MonkeyPatch, overrun: float, expected: int
) -> None:
    """An inference of 5 ms in a turn of a microsecond; all are run where there is time."""
    monkeypatch.setattr(agent, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(agent, "OVERRUN_SECONDS", overrun)
    samples = agent._interleaved({"a": partial(time.sleep, 0.005)}, 9, 1e-6, rest=0.0)
    assert len(samples["a"]) == expected


@pytest.mark.parametrize(("threads", "rests"), [(1, 0.0), (2, agent.REST_SECONDS)])
def test_candidates_with_threads_rest_before_each_turn(
    threads: int, rests: float, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads of the candidate before, which spin for a while, would be on the core that the next one needs."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    models = [{"name": name, "path": str(model)} for name in ("dense", "compressed")]
    for task in ("bench", "race"):
        result = agent.run_job(job(task, model, models=models, rounds=3, threads=threads))
        assert result["protocol"]["rest_seconds"] == rests
    assert slept == [rests] * 2 * 2 * 3


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_race_sets_aside_what_the_runtime_does_not_take(runtime: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "garbage.onnx").write_bytes(b"garbage")
    models = [{"name": "dense", "path": str(model)}, {"name": "broken", "path": str(tmp_path / "garbage.onnx")}]
    models.append({"name": "folded", "path": str(model)})
    result = agent.run_job(job("race", model, runtime=runtime, models=models))
    assert [entry["name"] for entry in result["models"]] == ["dense", "folded"]
    assert list(result["failed"]) == ["broken"]
    assert "garbage.onnx: the runtime cannot load this model" in result["failed"]["broken"]
    dense, folded = ([min(part) for part in entry["samples_ms"]] for entry in result["models"])
    assert len(dense) == len(folded) == 4
    assert [entry["floor_ms"] for entry in result["models"]] == [np.median(dense), np.median(folded)]
    assert result["speedups"]["folded"]["median"] == np.median(np.divide(dense, folded))
    assert result["environment"]["runtime"] == runtime
    assert json.loads(json.dumps(result)) == result


def race_of(times: dict[str, list[float]], monkeypatch: pytest.MonkeyPatch, **changes: float) -> Any:
    """A race whose models take what ``times`` says of each round; a double of the clock, so that no time passes."""

    def timed(step: Callable[[], list[float]], seconds: float) -> list[float]:
        return step() if seconds > agent.SETTLE_SECONDS else []

    monkeypatch.setattr(agent, "_timed", timed)
    rounds = {name: iter(each) for name, each in times.items()}

    def load(name: str) -> Callable[[], list[float]]:
        return lambda: [next(rounds[name]), 99.0]

    loads: dict[str, Callable[[], Callable[[], Any]]] = {name: partial(load, name) for name in times}
    timing = {"warmup_seconds": 0, "seconds": 10, "rounds": 5, "seed": 0, "drop_after": 2, "drop_factor": 1.5}
    return agent.race(loads, {**timing, **changes}, threads=1)


def test_clear_losers_leave_the_race_and_the_reference_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is the fastest of a round, and the median of these over all rounds so far."""
    times = {
        "dense": [9.0, 9.0, 9.0, 9.0, 9.0],
        "best": [1.0, 2.0, 2.0, 2.0, 2.0],
        "near": [2.0, 2.0, 2.0, 2.0, 2.0],
        "late": [2.0, 2.0, 9.0, 9.0],
        "lost": [4.0, 4.0],
    }
    result = race_of(times, monkeypatch)
    samples = {model["name"]: [min(part) for part in model["samples_ms"]] for model in result["models"]}
    assert samples == times
    assert {name: speedup["median"] for name, speedup in result["speedups"].items()} == {
        "best": 4.5,
        "near": 4.5,
        "late": 2.75,
        "lost": 2.25,
    }
    assert (result["protocol"]["drop_after"], result["protocol"]["drop_factor"]) == (2, 1.5)


def test_nobody_leaves_before_the_stated_round(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"dense": [1.0] * 5, "slow": [9.0] * 5}
    result = race_of(times, monkeypatch, drop_after=4)
    assert [len(model["samples_ms"]) for model in result["models"]] == [5, 4]


def test_a_model_that_left_is_unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its session would hold memory and threads."""

    class Session:
        def slow(self) -> list[float]:
            return [9.0]

    loaded: weakref.WeakSet[Session] = weakref.WeakSet()
    open_sessions: list[int] = []

    def load() -> Callable[[], list[float]]:
        session = Session()
        loaded.add(session)
        return session.slow

    def reference() -> list[float]:
        open_sessions.append(len(loaded))
        return [1.0]

    monkeypatch.setattr(agent, "_timed", lambda step, _seconds: step())
    timing = {"warmup_seconds": 0, "seconds": 1, "rounds": 3, "seed": 0, "drop_after": 2, "drop_factor": 1.5}
    agent.race({"dense": lambda: reference, "slow": load}, timing, threads=1)
    warmup, *rounds = open_sessions
    assert (warmup, rounds) == (0, [1] * 4 + [0] * 2)


@pytest.mark.parametrize(("code", "first"), [(1, True), (2, False), (3, False)])
def test_race_fails_if_its_reference_does_or_if_no_model_is_to_blame(code: int, *, first: bool) -> None:
    """Of another model only exit code 1, the runtime's refusal, sets it aside."""

    def refuse() -> Callable[[], Any]:
        raise agent.AgentError("refused", code)

    loads: dict[str, Callable[[], Callable[[], Any]]] = {"dense": lambda: int, "other": lambda: int}
    loads["dense" if first else "other"] = refuse
    timing = {"warmup_seconds": 0, "seconds": 1, "rounds": 1, "seed": 0, "drop_after": 1, "drop_factor": 1.5}
    with pytest.raises(agent.AgentError, match="refused") as caught:
        agent.race(loads, timing, threads=1)
    assert caught.value.exit_code == code


def test_race_that_drops_models_faster_than_the_best_is_refused(model: Path) -> None:
    with pytest.raises(agent.AgentError, match=r"drop_factor: got 0\.5; use 1 or more"):
        agent.run_job(job("race", model, drop_factor=0.5))


def test_memory_peaks_are_ordered_and_name_their_method(model: Path) -> None:
    result = agent.run_job(job("memory", model))
    assert "VmHWM" in result["method"]
    if result["reason"] is None:
        assert 0 <= result["build_peak_memory_bytes"] <= result["peak_memory_bytes"]


def test_memory_is_null_with_a_reason_where_the_peak_cannot_be_reset(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "_reset_peak", lambda: "the peak cannot be reset: refused")
    result = agent.run_job(job("memory", model))
    assert result["peak_memory_bytes"] is None
    assert result["build_peak_memory_bytes"] is None
    assert result["reason"] == "the peak cannot be reset: refused"


def test_infer_goes_from_npz_to_npz(model: Path, tmp_path: Path) -> None:
    inputs, outputs = tmp_path / "in.npz", tmp_path / "out.npz"
    agent.write_npz(str(inputs), {INPUT: images(4)})
    request = job("infer", model, inputs_npz=str(inputs), outputs_npz=str(outputs))
    del request["input"]
    agent.run_job(request)
    assert agent.rel_l2(agent.read_npz(str(outputs))[OUTPUT], expected(images(4))) < 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "dance"}, "task: got 'dance'; use one of"),
        ({"colour": 1}, r"unknown keys \['colour'\]"),
        ({"inputs_npz": "x.npz"}, "exactly one of"),
        ({"models": []}, "got 0 models"),
        ({"models": [{"name": "a", "path": "x"}] * 2}, "a name comes twice"),
        ({"threads": 0}, "threads: got 0"),
        ({"rounds": 0}, "rounds: got 0; use 1 or more"),
        ({"seconds": float("nan")}, "seconds: got nan"),
        ({"input": {"name": INPUT, "shape": [1, 2]}}, r"got float32 \[1, 2\]; the model takes float32 \[2, 3, 6, 5\]"),
        ({"models": [{"name": "a", "path": "/nowhere/m.onnx"}]}, "/nowhere/m.onnx: no such model file"),
    ],
)
def test_bad_job_is_refused_with_what_was_expected(changes: dict[str, Any], message: str, model: Path) -> None:
    request = job("bench", model)
    with pytest.raises(agent.AgentError, match=message) as caught:
        agent.run_job({**request, **changes})
    assert caught.value.exit_code == 2


def test_missing_key_of_a_job_is_named(model: Path) -> None:
    request = job("bench", model)
    del request["rounds"]
    with pytest.raises(agent.AgentError, match=r"missing keys \['rounds'\]"):
        agent.run_job(request)


def test_npz_of_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", thing=np.array([{}], dtype=object))
    with pytest.raises(agent.AgentError, match=r"objects\.npz: not a readable \.npz"):
        agent.read_npz(str(tmp_path / "objects.npz"))


def test_an_array_under_the_name_of_an_npz_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "inputs.npz").open("wb") as stream:
        np.save(stream, np.ones(3))
    with pytest.raises(agent.AgentError, match=r"inputs\.npz: not a readable \.npz"):
        agent.read_npz(str(tmp_path / "inputs.npz"))


@pytest.mark.parametrize("damage", ["cut off", "empty", "altered"])
def test_a_damaged_npz_is_refused(damage: str, tmp_path: Path) -> None:
    """As a file that was not copied whole."""
    path = tmp_path / "inputs.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).standard_normal(1000))
    content = path.read_bytes()
    middle = len(content) // 2
    altered = content[:middle] + bytes(64) + content[middle + 64 :]
    path.write_bytes({"cut off": content[:middle], "empty": b"", "altered": altered}[damage])
    with pytest.raises(agent.AgentError, match=r"inputs\.npz: not a readable \.npz"):
        agent.read_npz(str(path))


# --- command line ---------------------------------------------------------------------------------------------


def test_job_file_becomes_a_result_file_and_nothing_else(model: Path, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(json.dumps(job("bench", model)), encoding="utf-8")
    assert agent.main([str(tmp_path / "job.json"), str(tmp_path / "result.json")]) == 0
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["task"] == "bench"
    assert {path.name for path in tmp_path.iterdir()} == {"job.json", "result.json", "model.onnx"}


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(TypeError), agent.write_aside(str(path)) as stream:
        stream.writelines([b"half", "a text, which a binary file does not take"])
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_unreadable_job_file_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.json").write_text("{", encoding="utf-8")
    assert agent.main([str(tmp_path / "job.json"), str(tmp_path / "result.json")]) == 2
    assert "job.json: not a readable JSON job" in capsys.readouterr().err


def test_no_command_exits_with_2_and_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert agent.main([]) == 2
    assert "['bench', 'check', 'infer']" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code"), [(KeyboardInterrupt(), 130), (OSError("disk full"), 1), (agent.AgentError("x", 6), 6)]
)
def test_exit_code_follows_from_what_was_raised(
    raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_folder: str, _arguments: Any) -> None:
        raise raised

    monkeypatch.setitem(agent._COMMANDS, "check", refuse)
    assert agent.main(["check"]) == code
    assert capsys.readouterr().err.startswith("error: ")


def test_runtime_version_is_what_the_runtime_says(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("onnxruntime")
    fake.__version__ = "1.2.3"  # type: ignore[attr-defined]  # a module made here has none
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    assert agent.runtime_version("onnxruntime") == "1.2.3"
