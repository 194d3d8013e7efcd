"""A race in a fresh process: every model comes back with a time or a reason. No timing is asserted."""

from pathlib import Path

import pytest

from kronexport.errors import KronexportError
from kronexport.measure.race import RaceTiming, race_models
from kronexport.measure.setting import Setting
from kronexport.records import InputSpec
from tests.measure.samples import INPUT, SHAPE, save_model

SHORT = RaceTiming(seconds=0.01, rounds=2, warmup_seconds=0.0, drop_after=2, drop_factor=1e6)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_model_gets_a_time_or_a_reason(runtime: str, tmp_path: Path) -> None:
    models = {name: save_model(tmp_path / f"{name}.onnx") for name in ("dense", "folded")}
    (tmp_path / "broken.onnx").write_bytes(b"garbage")
    models["broken"] = tmp_path / "broken.onnx"
    result = race_models(models, Setting(runtime, 1, InputSpec(INPUT, SHAPE)), SHORT)
    assert list(result.raced) == ["dense", "folded"]
    assert list(result.failed) == ["broken"]
    assert result.raced["dense"].speedup == 1
    for raced in result.raced.values():
        assert raced.rounds == 2
        assert raced.latency_ms.min <= raced.floor_ms
        assert raced.speedup > 0


def test_a_reference_that_does_not_load_is_an_error(tmp_path: Path) -> None:
    """Without it the others have nothing to be compared with."""
    (tmp_path / "dense.onnx").write_bytes(b"garbage")
    models = {"dense": tmp_path / "dense.onnx", "folded": save_model(tmp_path / "folded.onnx")}
    with pytest.raises(KronexportError, match="cannot load this model"):
        race_models(models, Setting("onnxruntime", 1, InputSpec(INPUT, SHAPE)), SHORT)
