"""A real SSH server on loopback that stands for a board: asyncssh's, with SFTP and with processes of this machine.

Nothing on it is made up but its faults: it can cut a connection at any step of a job, run out of disk, and reboot.
"""

import asyncio
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import asyncssh
import pytest

from kronexport.machines.address import Address
from kronexport.machines.background import Background
from kronexport.machines.board import Board

STEPS = (
    "connect",
    "login",
    "session",
    "lease",
    "make room",
    "send agent",
    "send model",
    "send inputs",
    "send job",
    "run",
    "fetch result",
    "fetch outputs",
    "clean up",
)
"""Of a job, in order; at each the connection can be cut."""

_BY_REQUEST = {b'"lease"': "lease", b'"keep"': "make room", b'"run"': "run", b'"end"': "clean up"}
_BY_FILE = {
    "agent.py": "send agent",
    "job.json": "send job",
    "result.json": "fetch result",
    "inputs.npz": "send inputs",
    "outputs.npz": "fetch outputs",
}


class Login(asyncssh.SSHServer):
    """One connection."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._server.connections.append(conn)
        self._server.reach("connect", conn)

    def begin_auth(self, username: str) -> bool:
        assert self._connection is not None
        self._server.users.append(username)
        self._server.reach("login", self._connection)
        return True


class Server:
    """The board. ``folder`` holds the homes of the client and of the board, and the board's lease.

    ``room``: bytes that can still be written; None: no limit. ``prelude``: shell commands before any other. ``deaf``:
    what runs there is not told when its connection is gone.
    """

    def __init__(self, folder: Path) -> None:
        self.client, self.home, self.lease = folder / "client", folder / "board", folder / "lease"
        (self.client / ".ssh").mkdir(parents=True)
        self.home.mkdir()
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.key.write_private_key(self.client / ".ssh" / "id_ed25519")
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.port = 0
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.users: list[str] = []
        self.reached: list[str] = []
        self.cut_at: str | None = None
        self.cuts = 0
        self.spared = 0
        self.room: int | None = None
        self.prelude = ""
        self.deaf = False
        self._background = Background("board")
        self._children: list[asyncio.subprocess.Process] = []
        self._listener: asyncssh.SSHAcceptor | None = None
        self.start()

    def start(self) -> None:
        """Listen, and be known to the client."""
        self._background.call(self._start(), 30)
        self.know(self.host_key)

    def stop(self) -> None:
        """As when the power goes: every connection and every process ends."""
        self._background.call(self._stop(), 30)

    def reboot(self) -> None:
        self.stop()
        self.start()

    def kill_keepers(self) -> None:
        """Which they cannot answer."""
        for pid in self.keepers():
            os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        self.stop()
        self._background.stop()

    def know(self, host_key: asyncssh.SSHKey) -> None:
        """Let the client expect this key."""
        line = f"[127.0.0.1]:{self.port} {host_key.export_public_key().decode()}"
        (self.client / ".ssh" / "known_hosts").write_text(line, encoding="utf-8")

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", "someone", self.port)

    def board(self, python: str = sys.executable, patience: tuple[float, ...] = (0.0,)) -> Board:
        """The board as a client sees it."""
        return Board(self.address, python, str(self.lease), patience)

    def cut(self, step: str, times: int, after: int = 0) -> None:
        """Cut the connection so many times when ``step`` is reached, but not the first ``after`` times."""
        self.cut_at, self.cuts, self.spared = step, times, after

    def reach(self, step: str, connection: asyncssh.SSHServerConnection) -> None:
        """A step begins: cut the connection if that is wanted."""
        self.reached.append(step)
        if step != self.cut_at or self.cuts == 0:
            return
        if self.spared > 0:
            self.spared -= 1
        else:
            self.cuts -= 1
            connection.abort()

    def leftovers(self) -> list[Path]:
        """Work folders on the board."""
        return sorted(self.home.glob(".cache/kronexport-board/*/job-*"))

    def is_free(self) -> bool:
        """Whether nobody has the lease."""
        if not self.lease.exists():
            return True
        descriptor = os.open(self.lease, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    def keepers(self) -> list[int]:
        """Process ids of the sessions on the board."""
        return [child.pid for child in self._children if child.returncode is None]

    async def _start(self) -> None:
        self._listener = await asyncssh.create_server(
            lambda: Login(self),
            "127.0.0.1",
            self.port,
            server_host_keys=[self.host_key],
            authorized_client_keys=asyncssh.import_authorized_keys(self.key.export_public_key().decode()),
            process_factory=self._serve,
            sftp_factory=lambda channel: Files(channel, self),
            encoding=None,
        )
        self.port = self._listener.get_port()

    async def _stop(self) -> None:
        if self._listener is None:
            return
        self._listener.close()
        await self._listener.wait_closed()
        self._listener = None
        for connection in self.connections:
            connection.abort()
        for child in self._children:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
        self.connections.clear()

    async def _serve(self, process: "asyncssh.SSHServerProcess[bytes]") -> None:
        """Run the command as sshd does: when the connection is gone, its pipes are closed, and that is all."""
        connection = cast("asyncssh.SSHServerConnection", process.channel.get_connection())
        self.reach("session", connection)
        child = await asyncio.create_subprocess_shell(
            self.prelude + str(process.command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"HOME": str(self.home), "PATH": os.environ["PATH"]},
            start_new_session=True,
        )
        self._children.append(child)
        incoming = asyncio.create_task(self._incoming(process, child, connection))
        await asyncio.gather(_copied(child.stdout, process.stdout), _copied(child.stderr, process.stderr))
        code = await child.wait()
        incoming.cancel()
        with suppress(OSError, asyncssh.Error):
            process.exit(code if code >= 0 else 128 - code)

    async def _incoming(
        self,
        process: "asyncssh.SSHServerProcess[bytes]",
        child: asyncio.subprocess.Process,
        connection: asyncssh.SSHServerConnection,
    ) -> None:
        assert child.stdin is not None
        with suppress(OSError, asyncssh.Error):
            while line := await process.stdin.readline():
                step = next((step for mark, step in _BY_REQUEST.items() if line.startswith(b'{"do": ' + mark)), None)
                if step == "run":
                    child.stdin.write(line)
                    await child.stdin.drain()
                    self.reach(step, connection)
                    continue
                if step is not None:
                    self.reach(step, connection)
                    if connection.is_closed():
                        break
                child.stdin.write(line)
                await child.stdin.drain()
        if not self.deaf:
            child.stdin.close()


class Files(asyncssh.SFTPServer):
    """The board's files, of which no more than ``Server.room`` bytes can be written."""

    def __init__(self, channel: "asyncssh.SSHServerChannel[bytes]", server: Server) -> None:
        super().__init__(channel)
        self._server = server
        self._connection = cast("asyncssh.SSHServerConnection", channel.get_connection())

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        name = Path(os.fsdecode(path)).name
        step = "send model" if name.endswith(".onnx") else _BY_FILE.get(name)
        if name.endswith(".engine") and pflags & asyncssh.FXF_WRITE:
            step = "send engine"
        if step is not None and step != "send model":
            self._server.reach(step, self._connection)
        return super().open(path, pflags, attrs)

    def write(self, file_obj: Any, offset: int, data: bytes) -> int:
        if file_obj.name.endswith(b".onnx"):
            self._server.reach("send model", self._connection)
            data = data[: len(data) // 2] if self._connection.is_closed() else data
        room = self._server.room
        if room is not None:
            if len(data) > room:
                raise asyncssh.SFTPFailure("Failure")
            self._server.room = room - len(data)
        return cast("int", super().write(file_obj, offset, data))


async def _copied(source: asyncio.StreamReader | None, target: "asyncssh.SSHWriter[bytes]") -> None:
    assert source is not None
    while data := await source.read(1 << 16):
        with suppress(OSError, asyncssh.Error):  # the connection is gone: the child finds out by its stdin
            target.write(data)


def eventually(happens: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether it does within ``seconds``: the other end of a connection learns of its end a moment later."""
    end = time.monotonic() + seconds
    while not happens():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def known(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A board that the client knows; the user's own keys and known hosts are neither read nor written."""
    server = Server(folder)
    patch.setenv("HOME", str(server.client))
    patch.delenv("SSH_AUTH_SOCK", raising=False)
    yield server
    server.end()
