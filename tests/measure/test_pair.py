"""Dense against compressed, really measured: two pointwise convs, one with many more filters."""

from pathlib import Path

import pytest

from kronexport.measure import pair
from kronexport.measure.memory import MemoryResult
from kronexport.measure.pair import PairFigures, measure_pair
from kronexport.measure.setting import Setting, Timing
from kronexport.records import InputSpec
from tests.measure.samples import INPUT, SHAPE, save_model


def measured(dense: Path, compressed: Path) -> PairFigures:
    return measure_pair(dense, compressed, Setting("onnxruntime", 1, InputSpec(INPUT, SHAPE)), Timing(0.05, 5, 0.0))


def test_both_sides_get_time_and_memory(tmp_path: Path) -> None:
    """The ratio is dense over compressed; the method of the memory is on record."""
    small = save_model(tmp_path / "small.onnx")
    large = save_model(tmp_path / "large.onnx", channels=20000)
    figures = measured(large, small)
    assert figures.dense.latency_ms.p50 > figures.compressed.latency_ms.p50
    assert figures.speedup.median > 1
    assert figures.speedup.verdict == "faster"
    assert figures.protocol["memory"]
    assert figures.environment["threads"] == 1
    if not figures.unmeasured:
        assert figures.dense.peak_memory_bytes
        assert figures.compressed.peak_memory_bytes
        assert figures.dense.peak_memory_bytes > figures.compressed.peak_memory_bytes


def test_memory_that_the_kernel_cannot_tell_has_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A double stands for such a kernel: every figure that is None gets its key."""
    unsupported = MemoryResult(None, None, "VmHWM", "the peak cannot be reset", {})
    monkeypatch.setattr(pair, "measure_memory", lambda *_args, **_options: unsupported)
    model = save_model(tmp_path / "model.onnx")
    figures = measured(model, model)
    assert figures.dense.peak_memory_bytes is None
    assert figures.unmeasured == {
        f"{side}.{figure}": "the peak cannot be reset"
        for side in ("dense", "compressed")
        for figure in ("peak_memory_bytes", "build_peak_memory_bytes")
    }
