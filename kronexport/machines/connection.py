"""One SSH connection, used from ordinary code: asyncssh runs in the background.

It is the user's own SSH: ``~/.ssh/config``, keys, agent and known hosts. A host key that is not known is refused,
whatever the configuration says. Nobody is asked for anything.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, Final

import asyncssh

from kronexport.errors import BoardError
from kronexport.files import atomic_write
from kronexport.machines.address import Address
from kronexport.machines.background import Background

CONNECT_SECONDS: Final = 30.0
ALIVE_SECONDS: Final = 15.0
"""After this time without a word from the board it is asked for one; three of them without an answer: it is lost."""
TRANSFER_SECONDS: Final = 600.0
"""The longest that one file may take."""

_STDERR_BYTES: Final = 4096


class LostError(BoardError):
    """The connection broke off, or could not be made: another attempt may go better."""


class Connection:
    """An open connection; close it.

    Args:
        address: of the board.

    Raises:
        BoardError: It cannot be opened; a ``LostError`` where that may be otherwise in a moment.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._background = Background(f"ssh {address.place}")
        try:
            with _explained(address, "connect"):
                self._ssh = self._background.call(_connected(address), CONNECT_SECONDS)
        except OSError as error:
            self._background.stop()
            raise LostError(
                f"{address}: {error.strerror or error}; is the board on, its network up and the address right?"
            ) from error
        except BaseException:
            self._background.stop()
            raise

    @property
    def is_lost(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._ssh.is_closed()

    def start(self, command: str) -> "Process":
        """Run ``command`` in the user's shell there; raises ``BoardError``."""
        with self.explained(command):
            process = self._background.call(self._started(command), CONNECT_SECONDS)
        return Process(self, self._background, process)

    def put(self, source: Path, path: str) -> None:
        """Copy a file there, making its folder; raises ``BoardError``, and then it may be there in part."""
        with self.explained(f"{path} cannot be written"):
            self._background.call(self._put(source, path), TRANSFER_SECONDS)

    def get(self, path: str, target: Path) -> None:
        """Copy a file from there, whole or not at all; raises ``BoardError``."""
        with atomic_write(target) as aside, self.explained(f"{path} cannot be read"):
            self._background.call(self._get(path, aside), TRANSFER_SECONDS)

    def close(self) -> None:
        """End the connection; raises nothing."""
        with suppress(Exception):
            self._background.call(self._closed(), CONNECT_SECONDS)
        self._background.stop()

    @contextmanager
    def explained(self, doing: str) -> Iterator[None]:
        """What SSH raises within as a ``BoardError``, a ``LostError`` if the connection is gone."""
        try:
            with _explained(self.address, doing):
                yield
        except BoardError as error:
            if isinstance(error, LostError) or not self.is_lost:
                raise
            raise LostError(str(error)) from error

    async def _started(self, command: str) -> asyncssh.SSHClientProcess[bytes]:
        return await self._ssh.create_process(command, encoding=None)

    async def _put(self, source: Path, path: str) -> None:
        async with self._ssh.start_sftp_client() as sftp:
            await sftp.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
            await sftp.put(str(source), path)

    async def _get(self, path: str, target: Path) -> None:
        async with self._ssh.start_sftp_client() as sftp:
            await sftp.get(path, str(target))

    async def _closed(self) -> None:
        self._ssh.close()
        await self._ssh.wait_closed()


class Process:
    """A command that runs at the other end, spoken to line by line."""

    def __init__(
        self, connection: Connection, background: Background, process: asyncssh.SSHClientProcess[bytes]
    ) -> None:
        self._connection = connection
        self._background = background
        self._process = process

    def write(self, data: bytes) -> None:
        """Send ``data``; raises ``LostError``."""
        with self._connection.explained("the command there has ended"):
            self._background.call(self._write(data), CONNECT_SECONDS)

    def line(self, wanted: Callable[[bytes], bool], seconds: float) -> bytes | None:
        """The next line that is ``wanted``; None where the command ends before.

        Raises:
            LostError: the connection broke off, or there was none within ``seconds``.
        """
        with self._connection.explained("waiting for an answer"):
            return self._background.call(self._line(wanted), seconds)

    def ended(self) -> tuple[int | None, str]:
        """The exit code, None where a signal ended it or that is not known, and the end of what it said on stderr."""
        with self._connection.explained("waiting for the command's end"):
            return self._background.call(self._ended(), CONNECT_SECONDS)

    def repeat(self, data: bytes, seconds: float) -> None:
        """Send ``data`` every so many ``seconds`` from now on, as long as that is possible."""
        self._background.repeat(lambda: self._process.stdin.write(data), seconds)

    async def _write(self, data: bytes) -> None:
        self._process.stdin.write(data)
        await self._process.stdin.drain()

    async def _line(self, wanted: Callable[[bytes], bool]) -> bytes | None:
        while line := await self._process.stdout.readline():
            if wanted(line):
                return line
        return None

    async def _ended(self) -> tuple[int | None, str]:
        stderr = await self._process.stderr.read()
        await self._process.wait_closed()
        return self._process.exit_status, stderr[-_STDERR_BYTES:].decode("utf-8", "replace").strip()


async def _connected(address: Address) -> asyncssh.SSHClientConnection:
    options: dict[str, Any] = {"keepalive_interval": ALIVE_SECONDS}
    options |= {"username": address.user} if address.user else {}
    options |= {"port": address.port} if address.port else {}
    if asyncssh.SSHClientConnectionOptions(host=address.host, config=(), **options).known_hosts is None:
        raise BoardError(
            f"{address}: ~/.ssh/config has UserKnownHostsFile none for it, so that its key could not be checked; "
            "name a file there"
        )
    return await asyncssh.connect(address.host, **options)


@contextmanager
def _explained(address: Address, doing: str) -> Iterator[None]:
    """What SSH raises within as a ``BoardError`` that says what to do; errors of files here pass."""
    try:
        yield
    except asyncssh.HostKeyNotVerifiable as error:
        raise BoardError(
            f"{address}: its host key is not the one in your known hosts, or is not there at all; nothing was sent. "
            f"If you are sure that it is the right board, log in once by hand: {address.login}"
        ) from error
    except asyncssh.PermissionDenied as error:
        raise BoardError(
            f"{address}: it takes none of your keys ({error.reason}); expected one without a passphrase or in "
            f"ssh-agent; try by hand: {address.login}"
        ) from error
    except (asyncssh.ConfigParseError, asyncssh.KeyImportError, asyncssh.KeyExchangeFailed) as error:
        raise BoardError(f"{address}: {doing}: {error}; try by hand: {address.login}") from error
    except (asyncssh.DisconnectError, asyncssh.SFTPNoConnection, asyncssh.SFTPConnectionLost) as error:
        raise LostError(f"{address}: the connection broke off ({doing}): {error.reason}") from error
    except asyncssh.Error as error:
        raise BoardError(f"{address}: {doing}: {getattr(error, 'reason', '') or error}") from error
    except TimeoutError as error:
        raise LostError(f"{address}: no answer in time ({doing}); is the board on, and its network up?") from error
    except ConnectionError as error:
        raise LostError(
            f"{address}: {doing}: {error.strerror or error}; is the board on, and its network up?"
        ) from error
