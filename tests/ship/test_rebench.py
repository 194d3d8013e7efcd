"""Timing a bundle again, against the dense network of its output or another."""

import shutil
from pathlib import Path

import pytest

from kronexport.backends.profile import TargetProfile
from kronexport.errors import BundleError, UserInputError
from kronexport.machines.base import Machine
from kronexport.measure.latency import BenchResult
from kronexport.measure.setting import Timing
from kronexport.records import Precision
from kronexport.ship.rebench import Elsewhere, bench_bundle
from tests.conftest import Built


def no_machine(_profile: TargetProfile, _threads: int, _precision: Precision) -> Machine:
    pytest.fail("a machine was asked for")


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


@pytest.mark.parametrize("elsewhere", [None, no_machine])
def test_a_folder_that_is_not_there_is_no_damaged_bundle(tmp_path: Path, elsewhere: Elsewhere | None) -> None:
    """Wherever it would be timed."""
    with pytest.raises(UserInputError, match="none: no such folder; expected a bundle"):
        bench_bundle(tmp_path / "none", against=None, threads=None, timing=Timing(0.05, 5, 0.0), elsewhere=elsewhere)


def test_a_copy_under_another_name_is_not_timed_against_what_was_built_since(built_copy: Path) -> None:
    """A link to the bundle is the bundle."""
    kept = shutil.copytree(built_copy / "x86-onnxruntime", built_copy / "keep-v1")
    with pytest.raises(UserInputError, match="name one with --against"):
        bench(kept)
    (built_copy / "latest").symlink_to("x86-onnxruntime")
    assert list(bench(built_copy / "latest").latency_ms) == ["dense", "bundle"]
