"""TensorRT: an engine is built on its device. Where that is not at hand, the script ships that builds it there."""

from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kronexport import agent
from kronexport.backends.base import Compiled, Runner, agent_errors, session_runner
from kronexport.backends.build_script import SCRIPT, build_script
from kronexport.backends.fit import check_release
from kronexport.backends.profile import BackendName, TargetProfile, required_board
from kronexport.backends.trt_engine import Order
from kronexport.backends.trt_machine import TrtMachine
from kronexport.backends.trt_model import asked_precisions, batch_of, read_model, route_of, weak_typing_note
from kronexport.backends.trt_operators import check_operators
from kronexport.backends.trt_precision import ProvenPrecision
from kronexport.backends.trtexec import Shapes
from kronexport.errors import KronexportError
from kronexport.files import atomic_write
from kronexport.records import BatchRange

if TYPE_CHECKING:
    import onnx

NO_DEVICE: Final = "not measured: no device"
NO_SCORE: Final = "not scored: trtexec starts anew for each batch, which no set of test images is small enough for"
ON_THE_BOARD: Final = "on the board"
ENGINE: Final = "model.engine"

_EXECUTABLE: Final = 0o755


def is_board(profile: TargetProfile) -> bool:
    """Whether this machine is the target's board: by its chip, which has one SM, and its trtexec.

    Raises:
        MissingRuntimeError: It is, but for the release of its TensorRT, as where a board over SSH has another.
    """
    if profile.board is None or profile.compatible[0] not in agent.gpus() or agent.trtexec_path() is None:
        return False
    with agent_errors():
        release = agent.trtexec_release()
    check_release(profile, "this board", release)
    return True


@dataclass(frozen=True, slots=True)
class TensorRtBackend:
    """TensorRT by way of ``trtexec``; see ``Backend``. Nothing of it is needed on a machine that is not the board.

    ``machine`` builds the engines and runs them; None: there is no device. ``batches`` is the range of a model whose
    batch is dynamic; None: it is static.
    """

    name: BackendName = "tensorrt"
    machine: TrtMachine | None = None
    batches: BatchRange | None = None

    def require(self) -> str:
        return ON_THE_BOARD

    def compile(self, model: Path, folder: Path, profile: TargetProfile, *, allow_fallback: bool = False) -> Compiled:
        loaded = read_model(model, profile)
        version = profile.runtime.version
        notes = (check_operators(loaded, version, str(model)), *weak_typing_note(loaded, version))
        script = folder / SCRIPT
        shapes = _shapes(loaded, self.batches)
        text = build_script(profile, route_of(loaded), shapes=shapes, allow_fallback=allow_fallback)
        with atomic_write(script, needed=len(text)) as aside:
            aside.write_bytes(text.encode())
            aside.chmod(_EXECUTABLE)
        if self.machine is None:
            return Compiled(artifact=None, files=(script,), reason=NO_DEVICE, notes=notes)
        batches = self.batches or BatchRange.static(batch_of(loaded))
        order = Order(asked_precisions(loaded), route_of(loaded), required_board(profile).workspace_mib, shapes)
        engine = self.machine.build(model, folder / ENGINE, order, batches, allow_fallback=allow_fallback)
        notes = (*notes, *_proof_notes(engine.built.proven, self.machine.tool.version))
        return Compiled(artifact=folder / ENGINE, files=(folder / ENGINE, script), notes=notes)

    def runner(self, compiled: Compiled, threads: int) -> AbstractContextManager[Runner]:
        return session_runner(self.name, compiled, threads)


def _shapes(loaded: "onnx.ModelProto", batches: BatchRange | None) -> tuple[Shapes, Shapes, Shapes] | None:
    """Least, usual and greatest of the input; None where they are static.

    Raises:
        KronexportError: the model's batch is dynamic, and no range was given.
    """
    if batch_of(loaded):
        return None
    (value,) = loaded.graph.input
    if batches is None:
        raise KronexportError(
            f"{value.name}: a dynamic batch and no range of it; expected --dynamic-batch MIN:OPT:MAX, or a static batch"
        )
    rest = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])
    least, usual, most = ({value.name: (size, *rest)} for size in (batches.min, batches.opt, batches.max))
    return least, usual, most


def _proof_notes(proven: ProvenPrecision, version: str) -> tuple[str, ...]:
    """What the nodes run in, and by name those that fell back."""
    counts = ", ".join(f"{count} in {name}" for name, count in sorted(Counter(proven.found.values()).items()))
    note = f"built by TensorRT {version} on the board; nodes that have a weight, by its layer information: {counts}"
    if not proven.others:
        return (note,)
    named = ", ".join(f"{node} ({why})" for node, why in proven.others.items())
    return note, f"not in the precision that was asked for, let be by --allow-fallback: {named}"
