"""Runs one job of ``agent.py`` in a fresh process, so that nothing this process has loaded or allocated counts."""

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from kronexport import agent
from kronexport.errors import KronexportError, error_of

_STDERR_TAIL_LINES: Final = 20
_AGENT_MARK: Final = "error: "


def run_agent(job: dict[str, Any], *, timeout_seconds: float) -> dict[str, Any]:
    """The result of ``job`` (keys: ``agent.run_job``), run by a fresh interpreter that imports nothing of kronexport.

    Args:
        job: What to measure. Paths in it should be absolute.
        timeout_seconds: After this the process is killed.

    Raises:
        KronexportError: The subclass that belongs to the agent's exit code, with the agent's message; the base class
            where the process ran out of time, was killed or failed in an unforeseen way.
        KeyboardInterrupt: On Ctrl-C, after the process has ended.
    """
    with tempfile.TemporaryDirectory(prefix="kronexport-agent-") as name:
        job_path, result_path = Path(name, "job.json"), Path(name, "result.json")
        job_path.write_text(json.dumps(job), encoding="utf-8")
        finished = _run(job_path, result_path, job, timeout_seconds)
        if finished.returncode != 0:
            raise _error_of(job, finished)
        result: dict[str, Any] = json.loads(result_path.read_text(encoding="utf-8"))
        return result


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
        raise KronexportError(
            f"{_place(job)}: no result within {timeout_seconds:.0f} s; "
            "measure for fewer seconds or rounds, or free the machine"
        ) from error


def _error_of(job: dict[str, Any], finished: subprocess.CompletedProcess[str]) -> BaseException:
    code = finished.returncode
    if code in (agent.EXIT_INTERRUPTED, -signal.SIGINT):
        return KeyboardInterrupt()
    if code < 0:
        return KronexportError(
            f"{_place(job)}: the measuring process was ended by {signal.Signals(-code).name}; "
            "if that is SIGKILL, memory has run out: measure a smaller model or free memory"
        )
    return error_of(code)(f"{_place(job)}: {_message(finished.stderr)}")


def _message(stderr: str) -> str:
    """The agent's own message, which comes last, or the end of a traceback."""
    lines = stderr.strip().splitlines()
    marks = [index for index, line in enumerate(lines) if line.startswith(_AGENT_MARK)]
    if marks:
        return "\n".join(lines[marks[-1] :])[len(_AGENT_MARK) :]
    return "\n".join(["the measuring process failed", *lines[-_STDERR_TAIL_LINES:]])


def _place(job: dict[str, Any]) -> str:
    names = ", ".join(model["name"] for model in job["models"])
    return f"{job['task']} of {names} on {job['runtime']}"
