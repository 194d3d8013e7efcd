"""A bundle runs where neither torch nor kronexport is: with Python, numpy and its runtime alone."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Built

RUNNER = """
import importlib.util, runpy, sys
site, script, *arguments = sys.argv[1:]
sys.path.append(site)
for absent in ("torch", "kronexport", "onnx", "scipy"):
    assert importlib.util.find_spec(absent) is None, absent
sys.argv = [script, *arguments]
runpy.run_path(script, run_name="__main__")
"""
"""Run with ``-I -S``: no site-packages, no current folder, no environment; only the folder that it is given."""

RUNTIMES = {
    "x86-onnxruntime": ("onnxruntime", ("flatbuffers", "packaging", "google")),
    "x86-openvino": ("openvino", ("openvino_telemetry",)),
}
"""Of each target its runtime, and what that imports if it is there."""


@pytest.fixture(scope="module", params=sorted(RUNTIMES))
def bundle(request: pytest.FixtureRequest, built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle, far from the output that it was made in."""
    folder = tmp_path_factory.mktemp("device")
    name: str = request.param
    return shutil.copytree(built.folder / name, folder / name)


@pytest.fixture(scope="module")
def packages(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Links to numpy and the bundle's runtime as they are installed here, and to nothing else."""
    site = tmp_path_factory.mktemp("site")
    runtime, helpers = RUNTIMES[bundle.name]
    for name in ("numpy", runtime, *helpers):
        spec = find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            (site / name).symlink_to(next(iter(spec.submodule_search_locations)))
    libraries = Path(str(distribution("numpy").locate_file("numpy.libs")))
    if libraries.is_dir():
        (site / "numpy.libs").symlink_to(libraries)
    return site


def run(packages: Path, bundle: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-I", "-S", "-c", RUNNER, str(packages), str(bundle / "run.py"), *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=bundle.parent)


def test_check_compares_with_the_golden_outputs(packages: Path, bundle: Path) -> None:
    done = run(packages, bundle, "check")
    assert done.returncode == 0, done.stderr
    assert "golden outputs agree" in done.stdout


def test_bench_times_it(packages: Path, bundle: Path) -> None:
    done = run(packages, bundle, "bench", "--seconds", "0.05", "--rounds", "5", "--json")
    assert done.returncode == 0, done.stderr
    (model,) = json.loads(done.stdout)["models"]
    assert model["latency_ms"]["n"] >= 5


def test_infer_computes_the_golden_outputs(packages: Path, bundle: Path, tmp_path: Path) -> None:
    """From a plain array to arrays by output name."""
    with np.load(bundle / "golden.npz") as stored:
        (images,) = (stored[key] for key in stored.files if key.startswith("input:"))
        golden = {key.removeprefix("output:"): stored[key] for key in stored.files if key.startswith("output:")}
    np.save(tmp_path / "images.npy", images)
    done = run(packages, bundle, "infer", str(tmp_path / "images.npy"), str(tmp_path / "answers.npz"))
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "answers.npz") as answers:
        assert set(answers.files) == set(golden)
        for name, expected in golden.items():
            assert np.linalg.norm(answers[name] - expected) <= 1e-5 * np.linalg.norm(expected)


def test_a_bundle_that_was_altered_on_its_way_is_refused(packages: Path, bundle: Path, tmp_path: Path) -> None:
    """Exit code 6, before anything is loaded."""
    damaged = shutil.copytree(bundle, tmp_path / "damaged")
    with (damaged / "model.onnx").open("ab") as stream:
        stream.write(b"\0")
    done = run(packages, damaged, "check")
    assert done.returncode == 6
    assert "model.onnx" in done.stderr


def test_without_its_runtime_it_says_what_to_install(bundle: Path, tmp_path: Path) -> None:
    """Exit code 3 with the pip command; numpy alone is there."""
    (tmp_path / "numpy").symlink_to(Path(np.__file__).parent)
    libraries = Path(str(distribution("numpy").locate_file("numpy.libs")))
    if libraries.is_dir():
        (tmp_path / "numpy.libs").symlink_to(libraries)
    done = run(tmp_path, bundle, "check")
    assert done.returncode == 3
    assert f"python -m pip install {RUNTIMES[bundle.name][0]}" in done.stderr
