"""A folder of a board over SSH in which commands run, for as long as the session there lasts."""

import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from kronexport import agent
from kronexport.errors import KronexportError
from kronexport.machines.place import Command, Ran, too_slow
from kronexport.machines.session import PLACE, Session

_MOVE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class BoardFolder:
    """See ``Place``. All raise ``LostError`` where the connection breaks off, and ``BoardError`` for what fails there.

    The folder is that of all places of one session: a file that is there, by its name and content, is not sent again.
    """

    session: Session

    @property
    def at(self) -> str:
        return f"{self.session.connection.address}: "

    @property
    def cache(self) -> str:
        return str(PurePosixPath(self.session.folder).parent)

    def run(self, command: Command, seconds: float) -> Ran:
        ended = self.session.command(command, seconds, folder=PLACE, stdout=True)
        if ended["code"] is None:
            raise too_slow(command, seconds, self.at)
        return Ran(ended["code"], ended["output"])

    def put(self, source: Path) -> str:
        path = self._path(self._name(source))
        if path not in self.session.placed:
            self.session.send(source, path)
            self.session.placed.add(path)
        return path

    def write(self, name: str, data: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="kronexport-board-") as folder:
            source = Path(folder, "data")
            source.write_bytes(data)
            self.session.send(source, self._path(name))

    def read(self, name: str) -> bytes:
        with tempfile.TemporaryDirectory(prefix="kronexport-board-") as folder:
            target = Path(folder, "data")
            self.session.connection.get(self._path(name), target)
            return target.read_bytes()

    def take(self, name: str, target: Path) -> None:
        self.session.connection.get(self._path(name), target)
        kept = self._name(target)
        words = f"mkdir -p -- {shlex.quote(str(PurePosixPath(kept).parent))} && mv -f -- {shlex.quote(name)} "
        ended = self.run(("sh", "-c", words + shlex.quote(kept)), _MOVE_SECONDS)
        if ended.code:
            raise KronexportError(f"{self.at}{name} cannot be kept there: {ended.output.strip()}")
        self.session.placed.add(self._path(kept))

    def _path(self, name: str) -> str:
        return f"{self.session.folder}/{PLACE}/{name}"

    @staticmethod
    def _name(source: Path) -> str:
        """By name and content, as the files of agents' jobs."""
        return f"{agent.sha256_of(str(source))[:32]}/{source.name}"
