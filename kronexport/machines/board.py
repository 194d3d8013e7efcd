"""A board over SSH as a machine; what breaks off is tried again."""

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from kronexport.errors import BoardError
from kronexport.machines.address import Address
from kronexport.machines.board_folder import BoardFolder
from kronexport.machines.connection import Connection, LostError
from kronexport.machines.place import Place
from kronexport.machines.session import LEASE, Options, Session

T = TypeVar("T")

log = logging.getLogger("kronexport")

PATIENCE: Final = (1.0, 10.0, 30.0)
"""Seconds before each further attempt at a job whose connection broke off."""

_PROBE_SECONDS: Final = 120.0


class Board:
    """See ``Host``; a context manager that has the board from the first job to its end.

    Args:
        address: where it is.
        python: the interpreter there that has numpy and the runtime.
        lease: the file there that is locked.
        patience: seconds before each further attempt at a job whose connection broke off. What could never be reached
            is not tried again.
    """

    def __init__(
        self, address: Address, python: str = "python3", lease: str = LEASE, patience: Sequence[float] = PATIENCE
    ) -> None:
        self.address = address
        self._options = Options(python, lease, secrets.token_hex(8))
        self._patience = patience
        self._open: tuple[Connection, Session] | None = None
        self._was_there = False
        self._environments: dict[str, dict[str, Any]] = {}

    @property
    def place(self) -> str:
        return self.address.place

    @property
    def width(self) -> int:
        return 1

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    def run_agent(self, job: dict[str, Any], *, timeout_seconds: float) -> dict[str, Any]:
        return self._attempted(lambda session: session.run(job, timeout_seconds))

    def in_folder(self, work: Callable[[Place], T]) -> T:
        return self._attempted(lambda session: work(BoardFolder(session)))

    def environment(self, runtime: str) -> dict[str, Any]:
        if runtime not in self._environments:
            job = {"task": "probe", "runtime": runtime, "threads": 1}
            self._environments[runtime] = self.run_agent(job, timeout_seconds=_PROBE_SECONDS)["environment"]
        return self._environments[runtime]

    def close(self) -> None:
        """Clean up there and free the lease; where that is not possible, the board does so itself."""
        if self._open is None:
            return
        try:
            self._open[1].end()
        except BoardError as error:
            log.warning("%s", error)
        finally:
            self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def _attempted(self, step: Callable[[Session], T]) -> T:
        """What ``step`` comes to; from its beginning in another session where the connection breaks off."""
        for pause in (*self._patience, None):
            try:
                return step(self._session())
            except LostError as error:
                self._drop()
                if pause is None or not self._was_there:
                    raise
                log.warning("%s; trying again in %.0f s", error, pause)
                time.sleep(pause)
            except KeyboardInterrupt:
                self._drop()  # which kills what runs there
                raise
        raise AssertionError("the last attempt returns or raises")

    def _session(self) -> Session:
        if self._open is None:
            connection = Connection(self.address)
            self._was_there = True
            try:
                self._open = connection, Session(connection, self._options)
            except BaseException:
                connection.close()
                raise
        return self._open[1]

    def _drop(self) -> None:
        if self._open is not None:
            self._open[0].close()
            self._open = None
