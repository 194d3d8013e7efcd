"""TensorRT where this machine is the board itself: its engine is built, proven and run here, by its own trtexec."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from numpy.typing import NDArray

from kronexport import agent
from kronexport.backends.base import Arrays, Compiled, Runner
from kronexport.backends.profile import TargetProfile
from kronexport.backends.trt_engine import Here, TrtEngine, build_engine, installed_release
from kronexport.backends.trt_model import asked_precisions, route_of
from kronexport.backends.trt_precision import ProvenPrecision
from kronexport.backends.trtexec import ON_JETPACK
from kronexport.errors import KronexportError
from kronexport.files import TEMP_PREFIX

if TYPE_CHECKING:
    import onnx

ENGINE: Final = "model.engine"


def trtexec_of(profile: TargetProfile) -> str | None:
    """The trtexec of this machine, if it is the target's board by its chip, which has one SM; None elsewhere."""
    if profile.board is None or profile.board.compatible not in agent.gpus():
        return None
    return shutil.which("trtexec") or (ON_JETPACK if Path(ON_JETPACK).is_file() else None)


def build_here(
    trtexec: str,
    model: Path,
    loaded: "onnx.ModelProto",
    folder: Path,
    profile: TargetProfile,
    *,
    allow_fallback: bool = False,
) -> Compiled:
    """The engine in ``folder``, or the reason why this board's TensorRT is not the target's.

    Args:
        trtexec: its path.
        model: the file that it reads.
        loaded: the same model.
        folder: of the engine.
        profile: of the target.
        allow_fallback: nodes that do not run in the precision that was asked for are named in a note.

    Raises:
        VerificationError: it does not run in the precision that was asked for.
        KronexportError: trtexec could not build it. ``folder`` holds nothing new.
    """
    board = profile.board
    if board is None:
        raise KronexportError(f"{profile.name}: backend {profile.backend} has no board; expected one of tensorrt")
    with tempfile.TemporaryDirectory(prefix=TEMP_PREFIX, dir=folder) as aside:
        place = Here(Path(aside), trtexec)
        version = installed_release(place)
        if not profile.runtime.allows(version):
            reason = f"not built here: TensorRT {version} is installed, expected {profile.runtime.version}"
            return Compiled(artifact=None, files=(), reason=reason)
        _, proven = build_engine(
            place,
            model.read_bytes(),
            ENGINE,
            route=route_of(loaded),
            asked=asked_precisions(loaded),
            workspace_mib=board.workspace_mib,
            allow_fallback=allow_fallback,
        )
        (Path(aside) / ENGINE).replace(folder / ENGINE)
    counts = ", ".join(f"{count} in {name}" for name, count in sorted(Counter(proven.found.values()).items()))
    note = f"built by TensorRT {version} on this board; nodes that have a weight, by its layer information: {counts}"
    notes = (note, *_fallback_notes(proven))
    batch = loaded.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    return Compiled(artifact=folder / ENGINE, files=(folder / ENGINE,), notes=notes, batch=batch, tool=trtexec)


def _fallback_notes(proven: ProvenPrecision) -> tuple[str, ...]:
    if not proven.others:
        return ()
    named = ", ".join(f"{node} ({why})" for node, why in proven.others.items())
    return (f"not in the precision that was asked for, let be by --allow-fallback: {named}",)


@contextmanager
def local_runner(trtexec: str, engine: Path, batch: int) -> Iterator[Runner]:
    """A runner on an engine that was built here."""
    with tempfile.TemporaryDirectory(prefix="kronexport-trtexec-") as folder:
        place = Here(Path(folder), trtexec)
        yield _LocalRunner(TrtEngine(place, str(engine.resolve()), installed_release(place)), batch)


@dataclass(frozen=True, slots=True)
class _LocalRunner:
    engine: TrtEngine
    batch: int

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        return self.engine.infer(feeds, self.batch)
