"""What a machine is: it runs one job of ``agent.py`` in a fresh process, and tells what it is."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from kronexport.machines.place import Place

T = TypeVar("T")


class Machine(Protocol):
    """Where models run: this machine, a board over SSH, or equal boards of a farm."""

    @property
    def place(self) -> str:
        """What it is called in messages and reports, such as ``here`` or ``me@orin``."""
        ...

    @property
    def width(self) -> int:
        """Jobs that it runs at once; above 1 only where each has a device of its own. Then threads may call it."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its figures has to know of it besides its environment."""
        ...

    def run_agent(self, job: dict[str, Any], *, timeout_seconds: float) -> dict[str, Any]:
        """The result of ``job`` (keys: ``agent.run_job``), run by a fresh interpreter without kronexport.

        Args:
            job: What to do. Paths in it are absolute, and of files on this machine, whichever machine runs it.
            timeout_seconds: After this the process is killed. A machine whose jobs are several commands may limit each
                of them instead.

        Raises:
            KronexportError: The subclass that belongs to the agent's exit code, with the agent's message; the base
                class where the process ran out of time, was killed or failed in an unforeseen way.
            KeyboardInterrupt: On Ctrl-C, after the process has ended.
        """
        ...

    def environment(self, runtime: str) -> dict[str, Any]:
        """What the machine tells of itself (``agent.machine_environment``) with ``runtime`` on one thread.

        Raises:
            MissingRuntimeError: It does not have the runtime.
            UserInputError: There is no such runtime.
        """
        ...


class Host(Machine, Protocol):
    """A machine whose own programs can be run, too."""

    def in_folder(self, work: Callable[[Place], T]) -> T:
        """What ``work`` comes to in a folder of the machine.

        A board has one folder for a whole session: files of an earlier ``work`` may be in it. Where the connection to
        the machine breaks off ``work`` is called again, in a new session: it has to bring all that it needs.

        Raises:
            KronexportError: whatever ``work`` raises, or the machine was lost.
        """
        ...
