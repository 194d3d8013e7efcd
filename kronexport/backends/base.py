"""What a backend is: it makes an engine of a model, and opens a runner on the engine. Nothing else knows a runtime.

The split into a maker and a runner that is a context manager is Polygraphy's (NVIDIA, TensorRT/tools/Polygraphy).
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from kronexport import agent
from kronexport.backends.profile import BackendName, TargetProfile
from kronexport.errors import MissingRuntimeError, error_of

Arrays = dict[str, NDArray[Any]]
"""Tensors by their ONNX names."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What became of a model.onnx.

    ``artifact`` is the file that the runtime loads, one of ``files``; None if it cannot be made here, for which
    ``reason`` says why. ``files`` is all that has to ship. ``notes`` are for the report: what was checked of it.
    """

    artifact: Path | None
    files: tuple[Path, ...]
    reason: str | None = None
    notes: tuple[str, ...] = ()


class Runner(Protocol):
    """An engine that is loaded."""

    def infer(self, feeds: Mapping[str, NDArray[Any]], most: int | None = None) -> Arrays:
        """All outputs for one feed an input; more samples than the static batch N run N at a time.

        ``most``: how many run at once where the batch is none; None: all.
        """
        ...


class Backend(Protocol):
    """One runtime. Its methods import it; this package does not."""

    @property
    def name(self) -> BackendName: ...

    def require(self) -> str:
        """The version of the runtime on this machine; call it before any work.

        Raises:
            MissingRuntimeError: It is not installed; the message has the command that installs it.
        """
        ...

    def compile(self, model: Path, folder: Path, profile: TargetProfile, *, allow_fallback: bool = False) -> Compiled:
        """Make of ``model`` what the runtime loads, in ``folder``, which is made if it is not there.

        Args:
            model: ONNX of at most the target's opset.
            folder: of what is made.
            profile: of the target.
            allow_fallback: nodes that the runtime computes in another precision than asked for are let be, and noted.

        Raises:
            VerificationError: Nodes are computed in another precision than asked for.
            UserInputError: There is no such model.
            KronexportError: It is no model that the runtime can load. ``folder`` holds nothing new.
        """
        ...

    def runner(self, compiled: Compiled, threads: int) -> AbstractContextManager[Runner]:
        """Load the artifact for inference with ``threads`` threads.

        Raises:
            MissingRuntimeError: There is no artifact, because it is made elsewhere.
            KronexportError: The runtime cannot load it.
        """
        ...


@dataclass(frozen=True, slots=True)
class SessionRunner:
    """A runner on a session of the agent: what is verified here runs in the same settings as on the device."""

    session: Any
    place: Path

    def infer(self, feeds: Mapping[str, NDArray[Any]], most: int | None = None) -> Arrays:
        with agent_errors(f"{self.place}: "):
            return dict(agent.infer(self.session, dict(feeds), most))


@contextmanager
def session_runner(runtime: BackendName, compiled: Compiled, threads: int) -> Iterator[Runner]:
    """A runner on ``compiled.artifact``; raises as ``Backend.runner``."""
    if compiled.artifact is None:
        raise MissingRuntimeError(f"{runtime}: nothing to run here: {compiled.reason}")
    with agent_errors():
        session = agent.open_session(runtime, str(compiled.artifact), threads)
    yield SessionRunner(session, compiled.artifact)


def check_loads(runtime: BackendName, model: Path, threads: int) -> None:
    """KronexportError, or UserInputError if there is no such file, unless ``runtime`` loads ``model``."""
    with agent_errors():
        agent.open_session(runtime, str(model), threads)


def installed_version(runtime: BackendName) -> str:
    """The version that ``runtime`` itself tells; MissingRuntimeError with the pip command if it isn't installed."""
    with agent_errors():
        return agent.runtime_version(runtime)


@contextmanager
def agent_errors(prefix: str = "") -> Iterator[None]:
    """The agent's error as the KronexportError of the same exit code."""
    try:
        yield
    except agent.AgentError as error:
        raise error_of(error.exit_code)(f"{prefix}{error}") from error
