"""agent.py as run.py in a bundle: what is refused before anything is loaded, and the three commands."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kronexport import agent
from tests.measure.samples import (
    INPUT,
    OUTPUT,
    SHAPE,
    expected,
    images,
    manifest,
    save_bundle,
    save_manifest,
    save_model,
    seal,
)

RUNTIMES = ("onnxruntime", "openvino")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return save_bundle(tmp_path / "bundle")


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would open a model or import a runtime fails the test."""

    def refuse(*_arguments: Any) -> None:
        pytest.fail("something was loaded before the bundle was refused")

    monkeypatch.setattr(agent, "open_session", refuse)
    monkeypatch.setattr(agent, "_import_runtime", refuse)


def refused(bundle: Path, match: str, code: int = 6) -> None:
    """check_bundle refuses the folder with this message and code."""
    with pytest.raises(agent.AgentError, match=match) as caught:
        agent.check_bundle(str(bundle))
    assert caught.value.exit_code == code


def run(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """run.py of the bundle, as a stranger starts it: from elsewhere, without kronexport on the path."""
    command = [sys.executable, "-P", str(bundle / "run.py"), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=bundle.parent, timeout=120)


def changed_manifest(bundle: Path, **changes: Any) -> None:
    """Replaces top-level keys of the manifest and seals the bundle again."""
    value = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    save_manifest(bundle, {**value, **changes})


def changed_requirement(bundle: Path, **changes: Any) -> None:
    """Replaces keys of the manifest's ``requires`` and seals the bundle again."""
    changed_manifest(bundle, requires={**manifest("onnxruntime")["requires"], **changes})


# --- damage ---------------------------------------------------------------------------------------------------


def test_whole_bundle_is_accepted(bundle: Path) -> None:
    assert agent.check_bundle(str(bundle)) == manifest("onnxruntime")


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "manifest.json", "run.py"])
def test_one_flipped_bit_in_any_file_is_refused(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    got, wanted = hashlib.sha256(content).hexdigest(), (bundle / "SHA256SUMS").read_text(encoding="utf-8")
    refused(bundle, f"{name}: sha256 is {got}, expected ")
    assert got not in wanted


@pytest.mark.usefixtures("nothing_loads")
def test_truncated_model_is_refused(bundle: Path) -> None:
    content = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(content[:-10])
    refused(bundle, r"model\.onnx: sha256 is")


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "run.py"])
def test_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    refused(bundle, rf"missing files \['{name}'\]")


@pytest.mark.usefixtures("nothing_loads")
def test_file_that_is_not_listed_is_named(bundle: Path) -> None:
    (bundle / "sub").mkdir()
    (bundle / "sub" / "extra.so").write_bytes(b"x")
    refused(bundle, r"does not list \['sub/extra.so'\]")


@pytest.mark.usefixtures("nothing_loads")
def test_symbolic_link_is_refused(bundle: Path, tmp_path: Path) -> None:
    shutil.move(bundle / "golden.npz", tmp_path / "golden.npz")
    (bundle / "golden.npz").symlink_to(tmp_path / "golden.npz")
    refused(bundle, r"golden\.npz is a symbolic link")


def test_python_s_cache_is_no_extra_file(bundle: Path) -> None:
    (bundle / "__pycache__").mkdir()
    (bundle / "__pycache__" / "run.cpython-311.pyc").write_bytes(b"x")
    agent.check_bundle(str(bundle))


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize("name", ["../outside", "sub/../../outside", "/etc/hostname", "C:\\x", "..\\x", "model.onnx"])
def test_path_that_leaves_the_bundle_or_comes_twice_is_refused(bundle: Path, name: str) -> None:
    (bundle.parent / "outside").write_bytes(b"")
    with (bundle / "SHA256SUMS").open("a", encoding="utf-8") as stream:
        stream.write(f"{hashlib.sha256(b'').hexdigest()}  {name}\n")
    refused(bundle, "is not a path of its own inside the bundle")


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize(
    ("content", "message"),
    [("", "SHA256SUMS is missing or empty"), ("12ab  model.onnx\n", "cannot read the line '12ab  model.onnx'")],
)
def test_sums_that_cannot_be_read_are_refused(bundle: Path, content: str, message: str) -> None:
    (bundle / "SHA256SUMS").write_text(content, encoding="utf-8")
    refused(bundle, message)


@pytest.mark.usefixtures("nothing_loads")
def test_manifest_is_not_parsed_before_its_bytes_are_checked(bundle: Path) -> None:
    (bundle / "manifest.json").write_text("{ not JSON", encoding="utf-8")
    refused(bundle, r"manifest\.json: sha256 is")
    seal(bundle)
    refused(bundle, r"manifest\.json is not JSON")


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "not of schema 1"),
        ({"requires": {"runtime": "onnxruntime"}}, r"lacks \['requires'\]"),
        ({"artifact": "../model.onnx"}, r"names \['\.\./model\.onnx'\], which SHA256SUMS does not list"),
        ({"artifact": "model.xml"}, r"names \['model\.bin', 'model\.xml'\]"),
        ({"artifact": None}, "names no artifact for onnxruntime"),
    ],
)
def test_sealed_manifest_that_makes_no_sense_is_refused(bundle: Path, changes: dict[str, Any], message: str) -> None:
    changed_manifest(bundle, **changes)
    refused(bundle, message)


# --- compatibility --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_loads")
def test_other_machine_is_refused_with_the_rebuild_command(bundle: Path) -> None:
    changed_requirement(bundle, machine=["pdp11"])
    refused(bundle, rf"for \['pdp11'\], this machine is {platform.machine()}; .*REBUILD-COMMAND")


@pytest.mark.parametrize(
    ("version", "rule"), [("999.0", "minimum"), ("1.0", "exact"), ("999.0", "exact"), ("1.0", "roughly")]
)
def test_other_version_is_refused_before_the_model_is_opened(
    bundle: Path, version: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "open_session", lambda *_: pytest.fail("the model was opened"))
    changed_requirement(bundle, version=version, rule=rule)
    refused(bundle, "REBUILD-COMMAND")


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("rule", ["minimum", "exact"])
def test_installed_version_satisfies_both_rules(bundle: Path, runtime: str, rule: str) -> None:
    changed_requirement(bundle, runtime=runtime, version=agent.runtime_version(runtime), rule=rule, machine=None)
    agent.check_bundle(str(bundle))


@pytest.mark.parametrize(
    ("version", "release"),
    [("2026.4.1-22982-e213a147257-releases/2026/4", (2026, 4, 1)), ("1.20.0", (1, 20)), ("10", (10,)), ("?", ())],
)
def test_release_of_a_version(version: str, release: tuple[int, ...]) -> None:
    assert agent._release(version) == release


def test_missing_runtime_is_told_before_load(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(bundle, "python -m pip install onnxruntime", code=3)


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize(("engine", "message"), [(None, r"build_engine\.sh"), (b"engine", "trtexec --loadEngine")])
def test_tensorrt_bundle_is_checked_then_sent_to_the_board(bundle: Path, engine: bytes | None, message: str) -> None:
    save_manifest(bundle, manifest("tensorrt", artifact=None))
    if engine is not None:
        (bundle / "model.engine").write_bytes(engine)  # built on the board: the sums do not know it
    refused(bundle, message, code=3)
    (bundle / "model.onnx").write_bytes(b"")
    refused(bundle, r"model\.onnx: sha256 is")


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize(
    ("release", "code", "message"),
    [("10.3.0", 3, "trtexec --loadEngine"), ("8.6.2", 6, r"needs tensorrt 10\.3\.0 \(exact\), installed is 8\.6\.2")],
)
def test_an_engine_that_ships_is_for_one_release(
    bundle: Path, release: str, code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "trtexec_release", lambda: release)
    (bundle / "model.engine").write_bytes(b"engine")
    value = manifest("tensorrt", artifact="model.engine")
    save_manifest(bundle, {**value, "requires": {**value["requires"], "version": "10.3.0", "rule": "exact"}})
    refused(bundle, message, code)


# --- commands -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_check_compares_with_the_golden_data(tmp_path: Path, runtime: str) -> None:
    finished = run(save_bundle(tmp_path / "bundle", runtime), "check")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("rel_l2 ")


def test_check_reads_openvino_ir(tmp_path: Path) -> None:
    import openvino as ov  # noqa: PLC0415  a heavy runtime that only this test converts with

    bundle = save_bundle(tmp_path / "bundle", "openvino")
    ov.save_model(ov.convert_model(bundle / "model.onnx"), bundle / "model.xml", compress_to_fp16=False)
    save_manifest(bundle, manifest("openvino", artifact="model.xml"))
    finished = run(bundle, "check")
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("value", [2.0, float("nan")])
def test_check_exits_with_4_if_the_numbers_differ(bundle: Path, value: float) -> None:
    golden = agent.read_npz(str(bundle / "golden.npz"))
    golden[f"output:{OUTPUT}"][0, 0, 0, 0] = value
    agent.write_npz(str(bundle / "golden.npz"), golden)
    seal(bundle)
    finished = run(bundle, "check")
    assert finished.returncode == 4
    assert "above 1.0e-05" in finished.stderr
    assert "REBUILD-COMMAND" in finished.stderr


def test_sealed_garbage_passes_the_checks_and_fails_at_load_with_6(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"garbage")
    seal(bundle)
    agent.check_bundle(str(bundle))
    finished = run(bundle, "check")
    assert finished.returncode == 6
    assert "the runtime cannot load this model" in finished.stderr


@pytest.mark.parametrize("command", [("check",), ("bench",), ("infer", "in.npz", "out.npz")])
def test_every_command_refuses_a_damaged_bundle(bundle: Path, command: tuple[str, ...]) -> None:
    (bundle / "model.onnx").write_bytes(b"garbage")
    finished = run(bundle, *command)
    assert finished.returncode == 6
    assert "model.onnx: sha256 is" in finished.stderr


def test_bench_against_another_model_prints_the_speedup(bundle: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "dense.onnx", channels=8)
    timing = ("--seconds", "0.02", "--rounds", "5", "--against", str(other))
    finished = run(bundle, "bench", *timing, "--json")
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    assert [model["name"] for model in result["models"]] == ["against", "bundle"]
    assert set(result["speedups"]) == {"bundle"}
    assert result["environment"]["threads"] == 1
    told = run(bundle, "bench", *timing)
    assert told.returncode == 0, told.stderr
    assert "speed-up" in told.stdout


def test_bench_of_a_baseline_that_does_not_load_exits_with_2(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "dense.onnx").write_bytes(b"garbage")
    finished = run(bundle, "bench", "--against", str(tmp_path / "dense.onnx"))
    assert finished.returncode == 2
    assert "dense.onnx: the runtime cannot load this model" in finished.stderr


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_infer_writes_the_outputs_by_name(bundle: Path, tmp_path: Path, suffix: str) -> None:
    inputs = tmp_path / f"in{suffix}"
    if suffix == ".npy":
        np.save(inputs, images(4))
    else:
        agent.write_npz(str(inputs), {INPUT: images(4)})
    finished = run(bundle, "infer", str(inputs), str(tmp_path / "out.npz"))
    assert finished.returncode == 0, finished.stderr
    outputs = agent.read_npz(str(tmp_path / "out.npz"))
    assert outputs[OUTPUT].shape == (4, 4, *SHAPE[2:])
    assert agent.rel_l2(outputs[OUTPUT], expected(images(4))) < 1e-5
    assert run(bundle, "check").returncode == 0


@pytest.mark.parametrize("target", ["bundle/out.npz", "nowhere/out.npz"])
def test_infer_does_not_write_into_the_bundle_or_nowhere(bundle: Path, tmp_path: Path, target: str) -> None:
    np.save(tmp_path / "in.npy", images())
    finished = run(bundle, "infer", str(tmp_path / "in.npy"), str(tmp_path / target))
    assert finished.returncode == 2
    assert target in finished.stderr


def test_run_py_needs_neither_torch_nor_kronexport(bundle: Path) -> None:
    (bundle.parent / "sitecustomize.py").write_text(
        "import sys\nfor name in ('torch', 'kronexport', 'onnx', 'scipy'):\n    sys.modules[name] = None\n",
        encoding="utf-8",
    )
    finished = subprocess.run(
        [sys.executable, str(bundle / "run.py"), "check"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(bundle.parent)},
    )
    assert finished.returncode == 0, finished.stderr
