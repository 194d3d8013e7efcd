import errno
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kronexport import agent
from kronexport.errors import BundleError, KronexportError, MissingRuntimeError, UserInputError, VerificationError
from kronexport.ship.bundle import verify_bundle, write_bundle
from kronexport.ship.manifest import requirement
from tests.ship.samples import bundle, golden, manifest, write_model


@pytest.fixture
def model_onnx(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return write_model(tmp_path / "work" / "simplified.onnx")


@pytest.fixture
def folder(tmp_path: Path, model_onnx: Path) -> Path:
    return bundle(tmp_path / "out" / "x86-onnxruntime", model_onnx)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_bundle_holds_its_files_and_nothing_else(folder: Path, model_onnx: Path) -> None:
    assert names(folder) == ["SHA256SUMS", "golden.npz", "manifest.json", "model.onnx", "run.py"]
    assert names(folder.parent) == ["x86-onnxruntime"]
    assert (folder / "model.onnx").read_bytes() == model_onnx.read_bytes()
    assert (folder / "run.py").read_bytes() == Path(agent.__file__).read_bytes()


def test_sums_are_those_of_the_raw_bytes_sorted_by_name(folder: Path) -> None:
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    assert lines == [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}"
        for name in ("golden.npz", "manifest.json", "model.onnx", "run.py")
    ]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_sums_can_be_checked_without_python(folder: Path) -> None:
    assert subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=False).returncode == 0


def test_whole_bundle_is_verified(folder: Path) -> None:
    verify_bundle(folder)


def test_bundle_checks_itself_in_a_process_of_its_own(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-I", "run.py", "check"], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"rel_l2 ")


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "manifest.json", "run.py"])
def test_altered_file_is_found_by_name(folder: Path, name: str) -> None:
    raw = bytearray((folder / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / name).write_bytes(raw)
    with pytest.raises(BundleError, match=name) as caught:
        verify_bundle(folder)
    assert caught.value.exit_code == 6


def test_truncated_missing_and_added_files_are_found(folder: Path) -> None:
    model = folder / "model.onnx"
    whole = model.read_bytes()
    model.write_bytes(whole[:-1])
    with pytest.raises(BundleError, match=r"model\.onnx"):
        verify_bundle(folder)
    model.unlink()
    with pytest.raises(BundleError, match=r"model\.onnx"):
        verify_bundle(folder)
    model.write_bytes(whole)
    (folder / "extra").touch()
    with pytest.raises(BundleError, match="extra"):
        verify_bundle(folder)


def test_bundle_for_another_machine_is_refused(tmp_path: Path, model_onnx: Path) -> None:
    requires = requirement("onnxruntime", "1.0", ("riscv128",))
    folder = bundle(tmp_path / "out", model_onnx, requires=requires)
    with pytest.raises(BundleError, match=f"riscv128.*{platform.machine()}"):
        verify_bundle(folder)


def test_engine_that_is_yet_to_be_built_is_a_missing_runtime(tmp_path: Path, model_onnx: Path) -> None:
    requires = requirement("tensorrt", "8.6.2", ("aarch64",))
    folder = bundle(tmp_path / "out", model_onnx, requires=requires, artifact=None)
    with pytest.raises(MissingRuntimeError, match=r"build_engine\.sh"):
        verify_bundle(folder)


def test_what_needs_a_later_runtime_than_this_machine_has_is_written(tmp_path: Path, model_onnx: Path) -> None:
    """It was verified on a board that has it; here it is refused."""
    folder = bundle(tmp_path / "out", model_onnx, requires=requirement("onnxruntime", "999.0", None))
    with pytest.raises(BundleError, match=r"needs onnxruntime 999\.0 \(minimum\)"):
        verify_bundle(folder)


@pytest.mark.parametrize(
    ("code", "error"),
    [(2, UserInputError), (3, MissingRuntimeError), (4, VerificationError), (6, BundleError), (1, KronexportError)],
)
def test_exit_code_of_the_agent_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, code: int, error: type[KronexportError]
) -> None:
    def refuse(_folder: str) -> Any:
        raise agent.AgentError("the agent's words", code)

    monkeypatch.setattr(agent, "check_bundle", refuse)
    with pytest.raises(error, match="the agent's words") as caught:
        verify_bundle(folder)
    assert caught.value.exit_code == code


def test_folder_that_is_not_there_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="no such folder"):
        verify_bundle(tmp_path / "nowhere")


def test_compiled_files_go_along_with_their_mode(tmp_path: Path, model_onnx: Path) -> None:
    script = tmp_path / "work" / "build_engine.sh"
    script.write_text("#!/bin/bash\n")
    script.chmod(0o755)
    folder = tmp_path / "out"
    write_bundle(
        folder,
        model_onnx=model_onnx,
        compiled_files=[script],
        golden=golden(model_onnx),
        manifest=manifest(model_onnx),
    )
    assert (folder / "build_engine.sh").stat().st_mode & stat.S_IXUSR
    assert "  build_engine.sh\n" in (folder / "SHA256SUMS").read_text()


def test_earlier_bundle_is_replaced_without_a_trace(folder: Path, model_onnx: Path) -> None:
    (folder / "model.engine").touch()
    bundle(folder, model_onnx)
    assert "model.engine" not in names(folder)
    assert names(folder.parent) == ["x86-onnxruntime"]
    verify_bundle(folder)


def test_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path, model_onnx: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(UserInputError, match="choose another --out"):
        bundle(tmp_path / "out", model_onnx)
    assert names(tmp_path / "out") == ["thesis.tex"]


def test_full_disk_leaves_the_earlier_bundle_whole(
    folder: Path, model_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_source: Path, to: Path) -> None:
        Path(to).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("kronexport.ship.bundle.shutil.copy", full)
    with pytest.raises(KronexportError, match=r"disk full: \d+ bytes needed"):
        bundle(folder, model_onnx)
    assert names(folder.parent) == ["x86-onnxruntime"]
    verify_bundle(folder)


@pytest.mark.parametrize("name", ["run.py", "model.onnx", "SHA256SUMS"])
def test_compiled_file_may_not_take_the_name_of_another(tmp_path: Path, model_onnx: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(KronexportError, match=f"already has a {name}"):
        write_bundle(
            tmp_path / "out",
            model_onnx=model_onnx,
            compiled_files=[tmp_path / name],
            golden=golden(model_onnx),
            manifest=manifest(model_onnx),
        )


def test_artifact_has_to_be_in_the_bundle(tmp_path: Path, model_onnx: Path) -> None:
    with pytest.raises(KronexportError, match=r"artifact model\.xml is not among"):
        bundle(tmp_path / "out", model_onnx, artifact="model.xml")
    assert not (tmp_path / "out").exists()
