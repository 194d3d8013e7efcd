"""An engine that is run by a machine's agent, inference by inference: for outputs, never for times."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from kronexport import agent
from kronexport.errors import error_of
from kronexport.machines.base import Machine

_INFER_SECONDS: Final = 1800.0


@dataclass(frozen=True, slots=True)
class MachineRunner:
    """See ``backends.base.Runner``. Each call starts a process there, so that many samples a call are best."""

    machine: Machine
    runtime: str
    artifact: Path
    threads: int

    def infer(self, feeds: Mapping[str, NDArray[Any]], most: int | None = None) -> dict[str, NDArray[Any]]:
        with tempfile.TemporaryDirectory(prefix="kronexport-infer-") as name:
            inputs, outputs = Path(name, "inputs.npz"), Path(name, "outputs.npz")
            agent.write_npz(str(inputs), dict(feeds))
            job = {
                "task": "infer",
                "runtime": self.runtime,
                "threads": self.threads,
                "options": {},
                "models": [{"name": self.artifact.name, "path": str(self.artifact.resolve())}],
                "inputs_npz": str(inputs),
                "outputs_npz": str(outputs),
                "most": most,
            }
            self.machine.run_agent(job, timeout_seconds=_INFER_SECONDS)
            try:
                return agent.read_npz(str(outputs))
            except agent.AgentError as error:
                raise error_of(error.exit_code)(str(error)) from error
