"""Timing a bundle again, against the dense network of its output or another."""

import shutil
from pathlib import Path

import pytest

from kronexport.errors import BundleError, UserInputError
from kronexport.measure.latency import BenchResult
from kronexport.measure.setting import Timing
from kronexport.ship.rebench import bench_bundle
from tests.conftest import Built


def bench(bundle: Path, against: Path | None = None) -> BenchResult:
    return bench_bundle(bundle, against=against, threads=None, timing=Timing(0.05, 5, 0.0))


def test_a_bundle_taken_out_of_its_output_needs_to_be_told_what_dense_is(built: Built, tmp_path: Path) -> None:
    alone = shutil.copytree(built.folder / "x86-onnxruntime", tmp_path / "alone")
    with pytest.raises(UserInputError, match=r"dense\.onnx: no dense model to compare with; name one with --against"):
        bench(alone)
    result = bench(alone, built.folder / "intermediates" / "dense.onnx")
    assert list(result.latency_ms) == ["dense", "bundle"]
    assert result.environment["threads"] == 1


def test_a_damaged_bundle_is_not_timed(built_copy: Path) -> None:
    (built_copy / "x86-onnxruntime" / "golden.npz").write_bytes(b"")
    with pytest.raises(BundleError, match=r"golden\.npz"):
        bench(built_copy / "x86-onnxruntime")


def test_a_model_that_is_not_there_is_refused(built: Built, tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=r"none\.onnx: no dense model"):
        bench(built.folder / "x86-onnxruntime", tmp_path / "none.onnx")
