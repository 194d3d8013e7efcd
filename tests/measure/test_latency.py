"""Latency in a fresh process. No timing is asserted: only what is kept, and that the figures follow from it."""

import itertools
from pathlib import Path

import pytest

from kronexport import agent
from kronexport.errors import UserInputError
from kronexport.measure.latency import bench_models, measure_latency
from kronexport.records import LatencyStats
from tests.measure.samples import INPUT, SHAPE, save_model


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_dense_and_compressed_are_told_apart_and_add_up(runtime: str, tmp_path: Path) -> None:
    result = measure_latency(
        save_model(tmp_path / "dense.onnx", channels=16),
        save_model(tmp_path / "compressed.onnx"),
        runtime=runtime,
        threads=1,
        input_name=INPUT,
        shape=SHAPE,
        seconds=0.05,
        rounds=5,
        warmup_seconds=0.0,
        seed=2,
    )
    for name, stats in (("dense", result.dense), ("compressed", result.compressed)):
        assert len(result.samples_ms[name]) == 5
        assert stats == LatencyStats(**agent.latency_stats(list(itertools.chain(*result.samples_ms[name]))))
    speedup = agent.paired_speedup(result.samples_ms["dense"], result.samples_ms["compressed"], 2)
    assert (result.speedup.median, list(result.speedup.ci95)) == (speedup["median"], speedup["ci95"])
    assert result.speedup.verdict == speedup["verdict"]
    assert (result.protocol["rounds"], result.protocol["seconds"], result.protocol["threads"]) == (5, 0.05, 1)
    assert result.environment["runtime"] == runtime


def test_any_number_of_models_is_compared_with_the_first(tmp_path: Path) -> None:
    models = {name: save_model(tmp_path / f"{name}.onnx") for name in ("dense", "folded", "grouped")}
    result = bench_models(
        models,
        runtime="onnxruntime",
        threads=1,
        input_name=INPUT,
        shape=SHAPE,
        seconds=0.01,
        rounds=1,
        warmup_seconds=0.0,
        options={"spinning": False},
    )
    assert list(result.latency_ms) == ["dense", "folded", "grouped"]
    assert list(result.speedups) == ["folded", "grouped"]
    assert result.environment["runtime_options"]["spinning"] is False


def test_wrong_input_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=r"got \['x'\]; the model takes \['image'\]"):
        bench_models(
            {"dense": save_model(tmp_path / "m.onnx")}, runtime="onnxruntime", threads=1, input_name="x", shape=SHAPE
        )
