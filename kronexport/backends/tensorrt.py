"""TensorRT: an engine can only be built on its device, so what is made here is the script that builds it there."""

import shlex
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from kronexport.backends.base import Compiled, Runner, session_runner
from kronexport.backends.profile import BackendName, TargetProfile
from kronexport.errors import KronexportError, UserInputError
from kronexport.files import TEMP_PREFIX, atomic_write

SCRIPT: Final = "build_engine.sh"
NO_DEVICE: Final = "not measured: no device"
ON_THE_BOARD: Final = "on the board"

_EXECUTABLE: Final = 0o755
_TIME_FLAGS: Final = (
    # Defaults differ between releases 10 and 11: graph, spin and transfers are pinned, so that timings compare.
    "--useCudaGraph",
    "--useSpinWait",
    "--noDataTransfers",
    "--warmUp=2000",
    "--duration=60",
    "--avgRuns=1",
)


@dataclass(frozen=True, slots=True)
class TensorRtBackend:
    """TensorRT by way of ``trtexec`` on a Jetson; see ``Backend``. Nothing of it is needed on this machine."""

    name: BackendName = "tensorrt"

    def require(self) -> str:
        return ON_THE_BOARD

    def compile(self, model: Path, folder: Path, profile: TargetProfile) -> Compiled:
        _check_model(model, profile)
        script = folder / SCRIPT
        text = build_script(profile)
        with atomic_write(script, needed=len(text)) as aside:
            aside.write_bytes(text.encode())
            aside.chmod(_EXECUTABLE)
        return Compiled(artifact=None, files=(script,), reason=NO_DEVICE)

    def runner(self, compiled: Compiled, threads: int) -> AbstractContextManager[Runner]:
        return session_runner(self.name, compiled, threads)


def build_script(profile: TargetProfile) -> str:
    """The text of build_engine.sh for a target with a board.

    Raises:
        KronexportError: The profile is not one of TensorRT.
    """
    board = profile.board
    if board is None:
        raise KronexportError(f"{profile.name}: backend {profile.backend} has no board; expected one of tensorrt")
    settings = {
        "target": profile.name,
        "chip": board.compatible,
        "sm": board.sm,
        "jetpack": board.jetpack,
        "tensorrt": profile.runtime.version,
        "remedy": "build again with the --target of that JetPack: kronexport targets list",
    }
    lines = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
    flags = {"build_flags": build_flags(profile.runtime.version, board.workspace_mib), "time_flags": _TIME_FLAGS}
    lines += [f"{name}=({shlex.join(values)})" for name, values in flags.items()]
    template = resources.files("kronexport.backends").joinpath(f"{SCRIPT}.in").read_text(encoding="utf-8")
    return template.replace("@settings@", "\n".join(lines)).replace("@temp_prefix@", TEMP_PREFIX)


def build_flags(version: str, workspace_mib: int) -> tuple[str, ...]:
    """How trtexec of a TensorRT release is told to build in fp32 with detailed layer names, and not to run.

    Source: the option parser of each release (NVIDIA/TensorRT, samples/common/sampleOptions.cpp).
    """
    major, minor = (int(part) for part in (*version.split("."), "0")[:2])
    workspace = "memPoolSize=workspace:" if (major, minor) >= (8, 5) else "workspace="
    build_only = "--skipInference" if (major, minor) >= (8, 6) else "--buildOnly"
    # Without --noTF32, convolutions called fp32 run with 10 bits of mantissa on Ampere and later.
    return f"--{workspace}{workspace_mib}", "--noTF32", "--profilingVerbosity=detailed", build_only


def _check_model(model: Path, profile: TargetProfile) -> None:
    """Refuse here what the board would refuse much later: no ONNX, or an opset or IR that its parser does not read."""
    import onnx  # noqa: PLC0415  slow to load, and listing targets needs none of it

    if not model.is_file():
        raise UserInputError(f"{model}: no such model file; expected an .onnx")
    try:
        loaded = onnx.load(model)
        onnx.checker.check_model(loaded)
    except Exception as error:  # protobuf's errors, and the checker's own
        raise KronexportError(f"{model}: not a valid ONNX model: {error}") from error
    opset = max(entry.version for entry in loaded.opset_import if entry.domain in ("", "ai.onnx"))
    if opset > profile.opset or loaded.ir_version > profile.ir_version:
        raise KronexportError(
            f"{model}: opset {opset}, IR {loaded.ir_version}; {profile.name} reads at most opset {profile.opset}, "
            f"IR {profile.ir_version}: lower it to these first"
        )
