"""TensorRT: an engine can only be built on its device, so what is made elsewhere is the script that builds it there."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from kronexport.backends.base import Compiled, Runner, session_runner
from kronexport.backends.build_script import SCRIPT, build_script
from kronexport.backends.profile import BackendName, TargetProfile
from kronexport.backends.trt_local import build_here, local_runner, trtexec_of
from kronexport.backends.trt_model import read_model, route_of, weak_typing_note
from kronexport.backends.trt_operators import check_operators
from kronexport.files import atomic_write

NO_DEVICE: Final = "not measured: no device"
ON_THE_BOARD: Final = "on the board"

_EXECUTABLE: Final = 0o755


@dataclass(frozen=True, slots=True)
class TensorRtBackend:
    """TensorRT by way of ``trtexec``; see ``Backend``. Nothing of it is needed on a machine that is not the board.

    ``find``: trtexec of this machine, if it is the target's board.
    """

    name: BackendName = "tensorrt"
    find: Callable[[TargetProfile], str | None] = trtexec_of

    def require(self) -> str:
        return ON_THE_BOARD

    def compile(self, model: Path, folder: Path, profile: TargetProfile, *, allow_fallback: bool = False) -> Compiled:
        loaded = read_model(model, profile)
        version = profile.runtime.version
        notes = (check_operators(loaded, version, str(model)), *weak_typing_note(loaded, version))
        script = folder / SCRIPT
        text = build_script(profile, route_of(loaded), allow_fallback=allow_fallback)
        with atomic_write(script, needed=len(text)) as aside:
            aside.write_bytes(text.encode())
            aside.chmod(_EXECUTABLE)
        trtexec = self.find(profile)
        if trtexec is None:
            return Compiled(artifact=None, files=(script,), reason=NO_DEVICE, notes=notes)
        built = build_here(trtexec, model, loaded, folder, profile, allow_fallback=allow_fallback)
        return replace(built, files=(*built.files, script), notes=(*notes, *built.notes))

    def runner(self, compiled: Compiled, threads: int) -> AbstractContextManager[Runner]:
        if compiled.artifact is None or compiled.batch is None or compiled.tool is None:
            return session_runner(self.name, compiled, threads)
        return local_runner(compiled.tool, compiled.artifact, compiled.batch)
