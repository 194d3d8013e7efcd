"""Peak memory in a fresh process for each model."""

from pathlib import Path

import pytest

from kronexport.errors import UserInputError
from kronexport.measure.memory import measure_memory
from kronexport.measure.setting import Setting
from kronexport.records import InputSpec
from tests.measure.samples import INPUT, SHAPE, save_model


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_peaks_are_ordered_or_null_with_a_reason(runtime: str, tmp_path: Path) -> None:
    result = measure_memory(save_model(tmp_path / "model.onnx"), Setting(runtime, 1, InputSpec(INPUT, SHAPE)))
    assert "VmHWM" in result.method
    if result.build_peak_memory_bytes is None or result.peak_memory_bytes is None:
        assert result.reason
        assert result.peak_memory_bytes is None
        assert result.build_peak_memory_bytes is None
    else:
        assert result.reason is None
        assert 0 < result.build_peak_memory_bytes <= result.peak_memory_bytes


def test_larger_input_needs_more_memory(tmp_path: Path) -> None:
    """A batch of 60,000 is 21 MiB in and 27 MiB out, far above what varies from run to run."""
    batches = (2, 60_000)
    peaks = [
        measure_memory(
            save_model(tmp_path / f"{batch}.onnx", batch=batch),
            Setting("onnxruntime", 1, InputSpec(INPUT, (batch, *SHAPE[1:]))),
        ).peak_memory_bytes
        for batch in batches
    ]
    if peaks[0] is None or peaks[1] is None:
        pytest.skip("this kernel cannot reset the peak")
    least = 4 * 7 * 30 * (batches[1] - batches[0])  # 3 channels in, 4 out, 30 pixels, float32
    assert peaks[1] - peaks[0] > 0.9 * least


def test_runtime_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="tvm"):
        measure_memory(save_model(tmp_path / "m.onnx"), Setting("tvm", 1, InputSpec(INPUT, SHAPE)))
