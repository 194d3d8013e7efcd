"""ONNX Runtime loads model.onnx as it is: its own saved form holds nodes of one CPU and never ships."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from kronexport.backends.base import Compiled, Runner, check_loads, installed_version, session_runner
from kronexport.backends.profile import BackendName, TargetProfile


@dataclass(frozen=True, slots=True)
class OnnxRuntimeBackend:
    """ONNX Runtime's CPU provider; see ``Backend``."""

    name: BackendName = "onnxruntime"

    def require(self) -> str:
        return installed_version(self.name)

    def compile(
        self,
        model: Path,
        folder: Path,
        profile: TargetProfile,
        *,
        allow_fallback: bool = False,  # noqa: ARG002  nothing falls back: its precision is that of the ONNX
    ) -> Compiled:
        folder.mkdir(parents=True, exist_ok=True)
        check_loads(self.name, model, profile.threads)
        return Compiled(artifact=model, files=(model,))

    def runner(self, compiled: Compiled, threads: int) -> AbstractContextManager[Runner]:
        return session_runner(self.name, compiled, threads)
