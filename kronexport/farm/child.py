"""The process that a worker's jobs run in: it has the board's lease as long as it lives, and gives it back.

    python -m kronexport.farm.child          reads an order, one line of JSON, from stdin

It ends when its stdin ends, which is when its worker ends, however that ends; and on SIGTERM. Either way what it runs
is killed and the lease is freed. What came of the order is in results.json of the order's folder: ``{"results":
[...]}``, or ``{"error": {"code", "lost", "message"}}``, where ``lost`` says that it was the board and not the job.
"""

import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from kronexport.errors import BoardError, KronexportError, as_failure
from kronexport.machines.base import Machine
from kronexport.machines.here import HERE
from kronexport.machines.keeper import free_lease, take_lease

RESULTS: Final = "results.json"

LEASE_SECONDS: Final = 900.0
"""The longest that a job waits for another that has this machine."""
_POLL_SECONDS: Final = 0.1
_OWNER: Final = "a farm's worker"


def main() -> None:
    """Run one order."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        answer: dict[str, Any] = {"results": _results(order)}
    except (KronexportError, OSError) as error:
        failure = as_failure(error)
        is_lost = isinstance(error, BoardError | OSError)  # a full disk of a worker's host is no fault of the job
        told = {"code": failure.exit_code, "lost": is_lost, "message": str(failure)}
        answer = {"error": told}
    Path(order["folder"], RESULTS).write_text(json.dumps(answer), encoding="utf-8")


def _end_with_stdin() -> None:
    # not by sys.stdin, whose lock this thread would hold when the interpreter ends
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _results(order: dict[str, Any]) -> list[dict[str, Any]]:
    with _machine(order) as machine:
        return [
            machine.run_agent(job, timeout_seconds=seconds)
            for job, seconds in zip(order["jobs"], order["seconds"], strict=True)
        ]


@contextmanager
def _machine(order: dict[str, Any]) -> Iterator[Machine]:
    """The board of the order, which is nobody else's meanwhile; this machine where no device is named."""
    if order["device"] is None:
        with lease(order["lease"]):
            yield HERE
        return
    from kronexport.machines.address import Address  # noqa: PLC0415  loads asyncssh, as the next does
    from kronexport.machines.board import Board  # noqa: PLC0415

    with Board(Address.parse(order["device"]), order["python"], order["lease"]) as board:
        yield board


@contextmanager
def lease(path: str, seconds: float = LEASE_SECONDS) -> Iterator[None]:
    """This machine's lease, the same that a board over SSH has (``machines.keeper``); waits for a farm's other jobs.

    Raises:
        BoardError: another has it who is no farm's worker, or one had it for all of ``seconds``.
    """
    owner = f"{_OWNER} on {socket.gethostname()}"
    holder = {"token": secrets.token_hex(8), "owner": owner, "pid": os.getpid(), "since": int(time.time())}
    until = time.monotonic() + seconds
    descriptor, found = take_lease(path, holder)
    while descriptor is None:
        by = found.get("owner", "another")
        if found and not by.startswith(_OWNER):  # as a board over SSH says at once
            raise BoardError(f"{path}: this machine is in use by {by}; try again later")
        if time.monotonic() > until:
            raise BoardError(f"{path}: this machine is in use by {by} for more than {seconds:.0f} s; try again later")
        time.sleep(_POLL_SECONDS)
        descriptor, found = take_lease(path, holder)
    try:
        yield
    finally:
        free_lease(descriptor)


if __name__ == "__main__":
    main()
