"""A race in a fresh process: every model comes back with a time or a reason. No timing is asserted."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from kronexport.errors import KronexportError
from kronexport.measure import race
from kronexport.measure.race import Raced, RaceResult, RaceTiming, race_models, settled_race
from kronexport.measure.setting import Setting
from kronexport.records import InputSpec, LatencyStats
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


PROCESSES: list[dict[str, float]] = [
    {"dense": 1.0, "lucky": 2.0, "steady": 1.9, "slow": 1.5, "gone": 1.8},
    {"dense": 1.0, "lucky": 1.5, "steady": 1.9},
    {"dense": 1.0, "lucky": 1.6, "steady": 1.8, "gone": 1.7},
]
"""Speed-ups of each model in one process after the other."""


@pytest.mark.parametrize(
    ("threads", "expected"),
    [
        (1, PROCESSES[0]),
        (2, {"dense": 1.0, "lucky": 1.6, "steady": 1.9, "slow": 1.5, "gone": 1.75}),
    ],
)
def test_what_one_process_cannot_tell_apart_runs_in_more_on_several_threads(
    monkeypatch: pytest.MonkeyPatch, threads: int, expected: dict[str, float]
) -> None:
    """Clear losers do not, nor does a process that a finalist fails in count for it."""
    asked: list[list[str]] = []

    def double(models: Mapping[str, Path], _setting: Setting, _timing: RaceTiming) -> RaceResult:
        found = PROCESSES[len(asked)]
        asked.append(list(models))
        stats = LatencyStats(1, *[1.0] * 7)
        return RaceResult({name: Raced(stats, 1.0, 10, found[name]) for name in models if name in found}, {})

    monkeypatch.setattr(race, "race_models", double)
    models = {name: Path(name) for name in PROCESSES[0]}
    result = settled_race(models, Setting("onnxruntime", threads, InputSpec(INPUT, SHAPE)), SHORT)
    assert {name: raced.speedup for name, raced in result.raced.items()} == pytest.approx(expected)
    assert asked[1:] == [["dense", "lucky", "steady", "gone"]] * (2 if threads > 1 else 0)
    assert result.raced["steady"].rounds == (30 if threads > 1 else 10)


def test_where_one_has_won_nothing_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = LatencyStats(1, *[1.0] * 7)
    speedups = {"dense": 1.0, "first": 2.0, "second": 1.6}
    races = iter([RaceResult({name: Raced(stats, 1.0, 10, value) for name, value in speedups.items()}, {})])
    monkeypatch.setattr(race, "race_models", lambda *_: next(races))
    models = {name: Path(name) for name in speedups}
    settled_race(models, Setting("onnxruntime", 2, InputSpec(INPUT, SHAPE)), SHORT)
    assert next(races, None) is None
