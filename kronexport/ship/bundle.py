"""A bundle: the folder that goes to the device, whole or not at all.

It holds model.onnx, what the runtime loads if that is another file, golden data, the manifest, the agent as run.py,
and SHA256SUMS, which is checked over the raw bytes of every other file before any of them is parsed.
"""

import platform
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kronexport import agent
from kronexport.backends.base import agent_errors
from kronexport.errors import KronexportError, UserInputError
from kronexport.files import atomic_folder, bytes_under, write_json_aside
from kronexport.ship.golden import Golden, write_golden
from kronexport.ship.manifest import GOLDEN_FILE, MODEL_FILE, Manifest
from kronexport.ship.output import is_bundle

MANIFEST_FILE = "manifest.json"
RUN_FILE = "run.py"
SUMS_FILE = "SHA256SUMS"

_RESERVED = frozenset({MODEL_FILE, GOLDEN_FILE, MANIFEST_FILE, RUN_FILE, SUMS_FILE})


def write_bundle(
    folder: Path, *, model_onnx: Path, compiled_files: Sequence[Path], golden: Golden, manifest: Manifest
) -> None:
    """Writes ``folder`` whole, or leaves it as it was.

    Args:
        folder: OUT/<target>; a bundle that is there is replaced.
        model_onnx: Copied as model.onnx.
        compiled_files: What the backend made of it, copied under their own names; ``model_onnx`` itself may be listed.
        golden: Inputs and outputs of the verified simplified model.
        manifest: See ``build_manifest``.

    Raises:
        UserInputError: ``folder`` is there and isn't a bundle.
        VerificationError: The engine does not give the golden outputs.
        KronexportError: Two files have one name, the artifact isn't among the files, or the disk is full.
    """
    if folder.exists() and not (is_bundle(folder) or (folder.is_dir() and not any(folder.iterdir()))):
        raise UserInputError(f"{folder}: is there and is not a bundle of kronexport's; choose another --out")
    copies = _copies(model_onnx, compiled_files, manifest)
    needed = golden.nbytes + sum(bytes_under(source) for source in copies.values())
    with atomic_folder(folder, needed=needed) as aside:
        for name, source in copies.items():
            shutil.copy(source, aside / name)  # with its mode: build_engine.sh stays executable
        write_golden(golden, aside / GOLDEN_FILE)
        files = _hashes(aside)
        write_json_aside(aside / MANIFEST_FILE, replace(manifest, files=files).to_json())
        _write_sums(aside)
        runs = manifest.artifact is not None and manifest.backend != "tensorrt"  # run.py has no session of TensorRT
        # What ships is run once as it ships, by the file that travels with it; a board's release may be a later one.
        if runs and manifest.requires.fits(platform.machine(), agent.runtime_version(manifest.requires.runtime)):
            verify_golden(aside)


def read_bundle(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle that is whole, whatever device it is for; loads nothing.

    Raises:
        BundleError: A file is missing, altered or foreign.
        UserInputError: There is no such folder.
    """
    _require_folder(folder)
    with agent_errors():
        return dict(agent.read_manifest(str(folder), agent.verify_checksums(str(folder))))


def verify_bundle(folder: Path) -> dict[str, Any]:
    """Checks a bundle as its own run.py does on the device: hashes, then manifest, then compatibility; loads nothing.

    Args:
        folder: OUT/<target>, or a copy of it.

    Returns:
        Its manifest.

    Raises:
        BundleError: A file is missing, altered or foreign, or the bundle does not fit this machine.
        MissingRuntimeError: Its runtime is not installed, or its engine has yet to be built.
        UserInputError: There is no such folder.
    """
    _require_folder(folder)
    with agent_errors():
        return dict(agent.check_bundle(str(folder)))


def verify_golden(folder: Path) -> float:
    """Checks a bundle as ``verify_bundle`` does, then loads it and runs its golden inputs.

    Returns:
        The greatest relative L2 distance of any output from the golden one.

    Raises:
        VerificationError: Above the manifest's tolerance; the others as ``verify_bundle``.
    """
    _require_folder(folder)
    with agent_errors():
        return float(agent.check_golden(str(folder)))


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserInputError(f"{folder}: no such folder; expected a bundle: the folder of one target in --out")
    targets = sorted(entry.name for entry in folder.iterdir() if is_bundle(entry))
    if targets:
        raise UserInputError(f"{folder}: the output of a build, not one bundle; name one of {', '.join(targets)} in it")


def _copies(model_onnx: Path, compiled_files: Sequence[Path], manifest: Manifest) -> dict[str, Path]:
    """What is copied into the bundle: source by name."""
    copies = {MODEL_FILE: model_onnx, RUN_FILE: Path(agent.__file__)}
    for source in compiled_files:
        if source.resolve() == model_onnx.resolve():
            continue
        if source.name in copies or source.name in _RESERVED:
            raise KronexportError(
                f"{source}: a bundle already has a {source.name}; give the compiled file another name"
            )
        copies[source.name] = source
    if manifest.artifact is not None and manifest.artifact not in copies:
        raise KronexportError(
            f"manifest: artifact {manifest.artifact} is not among the bundle's files ({', '.join(sorted(copies))})"
        )
    return copies


def _write_sums(folder: Path) -> None:
    """SHA256SUMS in the format of ``sha256sum``, so that it can be checked without Python too."""
    lines = [f"{digest}  {name}\n" for name, digest in _hashes(folder).items()]
    (folder / SUMS_FILE).write_bytes("".join(lines).encode())


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file by its name, sorted."""
    return {path.name: agent.sha256_of(str(path)) for path in sorted(folder.iterdir())}
