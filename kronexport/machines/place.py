"""A folder of a machine in which commands run: what is driven by programs of that machine alone needs no more."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from kronexport.errors import KronexportError, MissingRuntimeError
from kronexport.files import atomic_write

Command = tuple[str, ...]

OUTPUT_BYTES: Final = 64 * 1024
"""Of what a command printed so much is kept, from its end."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended, below 0 by a signal, and the end of what it printed on stdout and stderr."""

    code: int
    output: str


class Place(Protocol):
    """A folder on a machine, for as long as one has it. Names are those of files in it."""

    @property
    def at(self) -> str:
        """What an error about it begins with: ``ssh://me@orin: `` of a board, nothing here."""
        ...

    @property
    def cache(self) -> str:
        """The path there of a folder whose files stay when this one goes."""
        ...

    def run(self, command: Command, seconds: float) -> Ran:
        """Run a command in the folder and wait for it.

        Raises:
            MissingRuntimeError: there is no such program.
            KronexportError: it did not end within ``seconds``, and was killed.
        """
        ...

    def put(self, source: Path) -> str:
        """The path there of a file of this machine; it is sent once, however often it is asked for."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Make a file, or replace it."""
        ...

    def read(self, name: str) -> bytes:
        """KronexportError if there is no such file."""
        ...

    def take(self, name: str, target: Path) -> None:
        """Bring a file here, whole or not at all; ``put(target)`` finds it there. KronexportError as of ``read``."""
        ...


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder of this machine; ``cache`` is made when it is written to."""

    folder: Path
    cache: str
    at: str = ""

    def run(self, command: Command, seconds: float) -> Ran:
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise too_slow(command, seconds, self.at) from error
        except OSError as error:
            raise no_program(command, str(error.strerror), self.at) from error
        return Ran(done.returncode, done.stdout[-OUTPUT_BYTES:].decode(errors="replace"))

    def put(self, source: Path) -> str:
        return str(source.resolve())

    def write(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)

    def read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise KronexportError(f"{self.folder / name}: {error.strerror}; the command did not write it") from error

    def take(self, name: str, target: Path) -> None:
        if not (self.folder / name).is_file():
            raise KronexportError(f"{self.folder / name}: no such file; the command did not write it")
        with atomic_write(target) as aside:
            shutil.move(self.folder / name, aside)


def no_program(command: Sequence[str], reason: str, at: str) -> MissingRuntimeError:
    """The error of a command that the machine does not have; ``at`` as of ``Place``."""
    return MissingRuntimeError(f"{at}{command[0]}: {reason}; install it, or put it into PATH")


def too_slow(command: Command, seconds: float, at: str) -> KronexportError:
    """The error of a command that was killed since it took too long; ``at`` as of ``Place``."""
    return KronexportError(
        f"{at}{command[0]} did not end within {seconds:.0f} s and was killed; free the machine and try again"
    )
