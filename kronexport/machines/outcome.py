"""How an agent's process ended, as the error that belongs to it."""

import signal
from typing import Any, Final

from kronexport import agent
from kronexport.errors import KronexportError, error_of

_STDERR_TAIL_LINES: Final = 20
_AGENT_MARK: Final = "error: "


def agent_error(job: dict[str, Any], code: int, stderr: str, at: str = "") -> BaseException:
    """The error of a process that ended with ``code``, not 0; below 0 it is the signal that ended it.

    ``at`` is the address of the board that it ran on; "": here.
    """
    if code in (agent.EXIT_INTERRUPTED, -signal.SIGINT):
        return KeyboardInterrupt()
    if code < 0:
        return KronexportError(
            f"{place_of(job, at)}: the measuring process was ended by {signal.Signals(-code).name}; "
            "if that is SIGKILL, memory has run out: measure a smaller model or free memory"
        )
    return error_of(code)(f"{place_of(job, at)}: {_message(stderr)}")


def out_of_time(job: dict[str, Any], timeout_seconds: float, at: str = "") -> KronexportError:
    """The error of a process that was killed since it took too long; ``at`` as for ``agent_error``."""
    return KronexportError(
        f"{place_of(job, at)}: no result within {timeout_seconds:.0f} s; "
        "measure for fewer seconds or rounds, or free the machine"
    )


def place_of(job: dict[str, Any], at: str = "") -> str:
    """What a message about ``job`` begins with; ``at`` as for ``agent_error``."""
    names = ", ".join(model["name"] for model in job.get("models", ()))
    return f"{at}{': ' if at else ''}{job['task']}{f' of {names}' if names else ''} on {job['runtime']}"


def _message(stderr: str) -> str:
    """The agent's own message, which comes last, or the end of a traceback."""
    lines = stderr.strip().splitlines()
    marks = [index for index, line in enumerate(lines) if line.startswith(_AGENT_MARK)]
    if marks:
        return "\n".join(lines[marks[-1] :])[len(_AGENT_MARK) :]
    return "\n".join(["the measuring process failed", *lines[-_STDERR_TAIL_LINES:]])
