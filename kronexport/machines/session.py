"""A stay on a board: the lease, a folder to work in, and jobs that run there one after the other."""

import getpass
import hashlib
import json
import re
import shlex
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from kronexport import agent
from kronexport.errors import BoardError, MissingRuntimeError
from kronexport.machines import keeper
from kronexport.machines.connection import Connection, LostError, Process
from kronexport.machines.outcome import agent_error, out_of_time
from kronexport.machines.place import no_program

LEASE: Final = "/tmp/kronexport.lease"  # noqa: S108  one for all users of a board; it is opened without following links
"""On the board; who has the lock on it has the board."""

BEAT_SECONDS: Final = 10.0
"""The client says this often that it is there."""
SILENCE_SECONDS: Final = 60.0
"""So long after the last word of a client its lease is freed, if its connection has not been closed before."""

PLACE: Final = "place"
"""The folder in the work folder where commands run that are no agents; agents' jobs leave it as it is."""

_ANSWER_SECONDS: Final = 60.0
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126

_BOOTSTRAP: Final = (
    "import sys; sys.version_info < (3, 6) and sys.exit('it is Python %d.%d, expected 3.6 or later' % "
    "sys.version_info[:2]); source = sys.stdin.buffer.read(int(sys.stdin.buffer.readline())); "
    "exec(compile(source, 'keeper.py', 'exec'))"
)
"""Runs what comes on stdin: its length in a line, then so many bytes."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a board is used.

    Attributes:
        python: the interpreter there, by a name or a path; ``~`` is a home there.
        lease: the file there that is locked.
        token: says of a lease that it is this client's own.
    """

    python: str
    lease: str
    token: str


class Session:
    """The lease of a board; end it.

    ``folder`` is the work folder there, ``placed`` has the paths of the files that are whole in its ``PLACE``.

    Args:
        connection: to the board.
        options: how to use it.

    Raises:
        LostError: The connection broke off.
        BoardError: Another has the board (says who, and since when), or there is no place for files.
        MissingRuntimeError: There is no such interpreter, or too old a one.
    """

    def __init__(self, connection: Connection, options: Options) -> None:
        self.connection = connection
        self._options = options
        self._process, self._python = _keeper(connection, options.python)
        self.folder = self._leased()
        self._process.repeat(_line({"do": "beat"}), BEAT_SECONDS)
        self._agent = f"{self.folder}/agent.py"
        self._there: set[str] = set()
        self.placed: set[str] = set()

    def run(self, job: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
        """As ``Machine.run_agent``; a ``LostError`` where the connection broke off, or the keeper there was killed."""
        at = str(self.connection.address)
        with tempfile.TemporaryDirectory(prefix="kronexport-board-") as name:
            there = self._uploaded(job, Path(name))
            command = [self._python, self._agent, f"{self.folder}/job.json", f"{self.folder}/result.json"]
            ended = self.command(command, timeout_seconds, folder=".", stdout=False)
            if ended["code"] is None:
                raise out_of_time(job, timeout_seconds, at)
            if ended["code"] != 0:
                raise agent_error(job, ended["code"], ended["output"], at)
            result_path = Path(name, "result.json")
            self.connection.get(f"{self.folder}/result.json", result_path)
            result: dict[str, Any] = json.loads(result_path.read_text(encoding="utf-8"))
        if "outputs_npz" in job:
            self.connection.get(there["outputs_npz"], Path(job["outputs_npz"]))
            result["outputs_npz"] = job["outputs_npz"]
        return result

    def command(self, command: Sequence[str], seconds: float, *, folder: str, stdout: bool) -> dict[str, Any]:
        """How a command ended there: ``code``, None where it was killed after ``seconds``, and ``output``.

        Args:
            command: its words.
            seconds: the longest that it may take.
            folder: where it runs, in the work folder.
            stdout: what it prints there belongs to the output, as what it prints on stderr does.

        Raises:
            MissingRuntimeError: there is no such program.
            BoardError: it cannot be run; a ``LostError`` where the connection broke off.
        """
        request = {"do": "run", "command": list(command), "seconds": seconds, "folder": folder, "stdout": stdout}
        ended = self._asked(request, seconds + _ANSWER_SECONDS)
        if "missing" in ended:
            raise no_program(command, ended["missing"], f"{self.connection.address}: ")
        return ended

    def send(self, source: Path, path: str) -> None:
        """Copy a file there; ``BoardError`` with the room that there is where that fails, as on a full disk."""
        try:
            self.connection.put(source, path)
        except LostError:
            raise
        except BoardError as error:  # SFTP says no more than "failure" of a full disk
            left = self._asked({"do": "free"}, _ANSWER_SECONDS)["free"]
            raise BoardError(f"{error}; {source.stat().st_size} bytes needed, {left} free there") from error

    def end(self) -> None:
        """Clean up there and free the lease; raises ``BoardError``."""
        self._process.write(_line({"do": "end"}))
        if self._answer(_ANSWER_SECONDS) != {"ended": True}:
            raise BoardError(f"{self.connection.address}: it did not clean up; the next session will")

    def _leased(self) -> str:
        owner = f"{getpass.getuser()} from {socket.gethostname()}"
        wanted = {"path": self._options.lease, "token": self._options.token, "owner": owner}
        answer = self._asked({"do": "lease", "silence": SILENCE_SECONDS, **wanted}, _ANSWER_SECONDS)
        if "held" in answer:
            raise BoardError(
                f"{self.connection.address}: the board is in use{_holder(answer['held'])}; try again later"
            )
        return str(answer["folder"])

    def _uploaded(self, job: dict[str, Any], scratch: Path) -> dict[str, Any]:
        """The job with the paths that its files have there; what the last job had and this one has not is removed.

        The agent is one of the files.
        """
        there, files = relocated(job, self.folder)
        files = {self._agent: Path(agent.__file__), **files}
        kept = {PLACE, *(path.removeprefix(f"{self.folder}/").split("/")[0] for path in files)}
        free = self._asked({"do": "keep", "names": sorted(kept)}, _ANSWER_SECONDS)["free"]
        self._there &= set(files)
        wanted = {path: source for path, source in files.items() if path not in self._there}
        needed = sum(source.stat().st_size for source in wanted.values())
        if needed > free:
            raise self._full(needed, free)
        job_path = scratch / "job.json"
        job_path.write_text(json.dumps(there), encoding="utf-8")
        for path, source in {**wanted, f"{self.folder}/job.json": job_path}.items():
            self.send(source, path)
            self._there.add(path)
        return there

    def _full(self, needed: int, free: int) -> BoardError:
        return BoardError(
            f"{self.connection.address}: disk full: {needed} bytes needed in {self.folder}, {free} free; free some "
            "space there, or set XDG_CACHE_HOME there to another folder"
        )

    def _asked(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """The keeper's answer; raises ``BoardError``."""
        self._process.write(_line(request))
        answer = self._answer(seconds)
        if answer is None:
            code, stderr = self._process.ended()
            raise LostError(f"{self.connection.address}: the session there ended (code {code}) {stderr}".rstrip())
        if "error" in answer:
            raise BoardError(f"{self.connection.address}: {request['do']}: {answer['error']}")
        return answer

    def _answer(self, seconds: float) -> dict[str, Any] | None:
        return _read(self._process, seconds)


def _keeper(connection: Connection, python: str) -> tuple[Process, str]:
    """The running keeper, which is ready for requests, and the path of its interpreter there."""
    source = Path(keeper.__file__).read_bytes()
    process = connection.start(f"exec {_for_shell(python)} -c {shlex.quote(_BOOTSTRAP)}")
    process.write(b"%d\n%b" % (len(source), source))
    ready = _read(process, _ANSWER_SECONDS)
    if ready is not None:
        return process, str(ready["python"])
    code, stderr = process.ended()
    if code is None:
        raise LostError(f"{connection.address}: the session there ended before it began")
    missing = code in (_NOT_FOUND, _NOT_EXECUTABLE)
    raise MissingRuntimeError(
        f"{connection.address}: {python} {'is not there' if missing else 'does not serve'}: "
        f"{stderr or f'code {code}'}; expected Python 3.6 or later with numpy and the runtime; name it by "
        "--device-python"
    )


def _for_shell(path: str) -> str:
    """As one word, but for ``~`` or ``~name`` at its beginning, which the shell there expands."""
    home, slash, rest = path.partition("/")
    return f"{home}/{shlex.quote(rest)}" if slash and re.fullmatch(r"~[\w.-]*", home) else shlex.quote(path)


def _read(process: Process, seconds: float) -> dict[str, Any] | None:
    """The next answer of the keeper; None where it has ended."""
    mark = keeper.MARK.encode()
    line = process.line(lambda found: found.startswith(mark), seconds)
    return None if line is None else dict(json.loads(line[len(mark) :]))


def _line(request: Mapping[str, Any]) -> bytes:
    return json.dumps(request).encode() + b"\n"


def _holder(holder: Mapping[str, Any]) -> str:
    """Who has the board; nothing where that is just being written."""
    if "since" not in holder:
        return ""
    since = datetime.fromtimestamp(holder["since"], UTC).isoformat(sep=" ", timespec="seconds")
    return f" by {holder['owner']} since {since} (process {holder['pid']} there)"


def relocated(job: dict[str, Any], folder: str) -> tuple[dict[str, Any], dict[str, Path]]:
    """The job with paths below ``folder`` on the board, and by these the files here that have to be there.

    A file has a folder of its own, named by its name and content: what is there already need not be sent again.
    """
    files: dict[str, Path] = {}

    def moved(path: str) -> str:
        beside = [Path(path), *([Path(path).with_suffix(".bin")] if path.endswith(".xml") else [])]
        present = [source for source in beside if source.is_file()]
        digest = hashlib.sha256()
        for source in present:
            digest.update(f"{agent.sha256_of(str(source))} {source.name}\n".encode())
        at = f"{folder}/{digest.hexdigest()[:32]}"
        files.update({f"{at}/{source.name}": source for source in present})
        return f"{at}/{Path(path).name}"

    there = dict(job)
    if "models" in job:
        there["models"] = [{**model, "path": moved(model["path"])} for model in job["models"]]
    if "inputs_npz" in job:
        there["inputs_npz"] = moved(job["inputs_npz"])
    if "outputs_npz" in job:
        there["outputs_npz"] = f"{folder}/outputs.npz"
    return there, files
