"""Latency in a fresh process. No timing is asserted: only what is kept, and that the figures follow from it."""

import itertools
from pathlib import Path

import pytest

from kronexport import agent
from kronexport.errors import UserInputError
from kronexport.measure.latency import bench_models
from kronexport.measure.setting import Setting, Timing
from kronexport.records import InputSpec, LatencyStats
from tests.measure.samples import INPUT, SHAPE, save_model

SHORT = Timing(seconds=0.05, rounds=5, warmup_seconds=0.0)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_what_is_reported_follows_from_the_samples(runtime: str, tmp_path: Path) -> None:
    """Statistics and speed-up are those of the samples that were kept, none dropped."""
    dense, compressed = save_model(tmp_path / "dense.onnx", channels=16), save_model(tmp_path / "compressed.onnx")
    setting = Setting(runtime, 1, InputSpec(INPUT, SHAPE), seed=2)
    result = bench_models({"dense": dense, "compressed": compressed}, setting, SHORT)
    for name, stats in result.latency_ms.items():
        assert len(result.samples_ms[name]) == 5
        assert stats == LatencyStats(**agent.latency_stats(list(itertools.chain(*result.samples_ms[name]))))
    expected = agent.paired_speedup(result.samples_ms["dense"], result.samples_ms["compressed"], 2)
    speedup = result.speedups["compressed"]
    assert (speedup.median, list(speedup.ci95), speedup.verdict) == tuple(expected.values())
    assert (result.protocol["rounds"], result.protocol["seconds"], result.protocol["threads"]) == (5, 0.05, 1)
    assert result.environment["runtime"] == runtime


def test_any_number_of_models_is_compared_with_the_first(tmp_path: Path) -> None:
    models = {name: save_model(tmp_path / f"{name}.onnx") for name in ("dense", "folded", "grouped")}
    setting = Setting("onnxruntime", 1, InputSpec(INPUT, SHAPE), {"spinning": False})
    result = bench_models(models, setting, Timing(seconds=0.01, rounds=1, warmup_seconds=0.0))
    assert list(result.latency_ms) == ["dense", "folded", "grouped"]
    assert list(result.speedups) == ["folded", "grouped"]
    assert result.environment["runtime_options"]["spinning"] is False


def test_wrong_input_name_is_refused(tmp_path: Path) -> None:
    setting = Setting("onnxruntime", 1, InputSpec("x", SHAPE))
    with pytest.raises(UserInputError, match=r"got \['x'\]; the model takes \['image'\]"):
        bench_models({"dense": save_model(tmp_path / "m.onnx")}, setting, SHORT)
