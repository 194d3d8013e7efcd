"""This machine: a job of ``agent.py`` runs in a fresh process, so that nothing this one has loaded counts."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from kronexport import agent
from kronexport.cache import engine_cache
from kronexport.errors import error_of
from kronexport.machines.base import Host
from kronexport.machines.outcome import agent_error, out_of_time
from kronexport.machines.place import LocalFolder, Place

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Here:
    """See ``Host``."""

    place: str = "here"
    width: int = 1
    notes: tuple[str, ...] = ()

    def run_agent(self, job: dict[str, Any], *, timeout_seconds: float) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="kronexport-agent-") as name:
            job_path, result_path = Path(name, "job.json"), Path(name, "result.json")
            job_path.write_text(json.dumps(job), encoding="utf-8")
            finished = _run(job_path, result_path, job, timeout_seconds)
            if finished.returncode != 0:
                raise agent_error(job, finished.returncode, finished.stderr)
            result: dict[str, Any] = json.loads(result_path.read_text(encoding="utf-8"))
            return result

    def environment(self, runtime: str) -> dict[str, Any]:
        try:
            return agent.machine_environment(runtime, 1, {}, before={})
        except agent.AgentError as error:
            raise error_of(error.exit_code)(str(error)) from error

    def in_folder(self, work: Callable[[Place], T]) -> T:
        with tempfile.TemporaryDirectory(prefix="kronexport-place-") as name:
            return work(LocalFolder(Path(name), str(engine_cache())))


HERE: Final[Host] = Here()


def _run(
    job_path: Path, result_path: Path, job: dict[str, Any], timeout_seconds: float
) -> subprocess.CompletedProcess[str]:
    # -P: the agent's own folder stays off sys.path, where kronexport's modules would shadow others of the same name.
    command = [sys.executable, "-P", str(Path(agent.__file__).resolve()), str(job_path), str(result_path)]
    try:
        # On a timeout, on Ctrl-C and on any other exception, subprocess.run kills the child before it raises.
        return subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise out_of_time(job, timeout_seconds) from error
