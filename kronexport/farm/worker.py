"""``kronexport farm worker``: a dask worker that has one board, and gives no other work to it."""

import asyncio
import logging
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import dask
from distributed import Worker
from distributed.core import rpc
from distributed.security import Security

from kronexport.backends.fit import check_fits
from kronexport.backends.profile import TargetProfile, load_target
from kronexport.errors import BoardError, KronexportError, MissingRuntimeError, UserInputError, error_of
from kronexport.farm.address import checked_address
from kronexport.farm.farm import ANNOUNCED, CONNECT_SECONDS, QUIET, REMEDY, resource_of
from kronexport.farm.jobs import COMMAND, BoardSpec, Seat
from kronexport.farm.versions import misfit, of_scheduler, own_versions
from kronexport.machines.address import Address

PROBE_SECONDS: Final = 120.0


def serve(
    farm: str, spec: BoardSpec, command: Sequence[str] = COMMAND, tell: Callable[[str], None] = lambda _text: None
) -> None:
    """Serve a farm with a board until a signal, or until the scheduler is gone.

    Args:
        farm: the scheduler's address.
        spec: the board; its profile may be an alias.
        command: what runs ``child.main``.
        tell: told when the farm has the board.

    Raises:
        UserInputError: the address is none, the board is not the target, or the target is one whose engines are built
            on it.
        MissingRuntimeError: the board lacks the runtime, or versions of scheduler and worker do not fit.
        BoardError: the board, or the scheduler, cannot be reached, or the scheduler is gone.
    """
    checked_address(farm)
    profile = load_target(spec.profile)
    if profile.backend == "tensorrt":
        raise UserInputError(
            f"--board {spec.profile}: a farm times forms of layers, and TensorRT's targets are planned by their "
            "roofline; build with --device ssh://BOARD"
        )
    spec = BoardSpec(profile.name, spec.device, spec.python, spec.lease)
    seat = Seat(spec, command)
    check_fits(profile, place_of(spec), _environment(seat, profile))
    logging.getLogger("distributed").setLevel(logging.ERROR)
    with dask.config.set(QUIET):
        number = asyncio.run(_served(farm, seat, tell))
    if number is None:
        raise BoardError(f"--farm {farm}: the scheduler is gone; start it, and this worker again")
    sys.exit(128 + number)


def place_of(spec: BoardSpec) -> str:
    """What the board is called."""
    return socket.gethostname() if spec.device is None else Address.parse(spec.device).place


def _environment(seat: Seat, profile: TargetProfile) -> dict[str, Any]:
    """What the board tells of itself; raises as ``Machine.environment``."""
    probe = {"task": "probe", "runtime": profile.backend, "threads": 1}
    answer = seat.run("probe", [probe], [PROBE_SECONDS], {})
    if "error" in answer:
        told = answer["error"]
        kind: type[KronexportError] = BoardError if told["lost"] else error_of(told["code"])
        raise kind(told["message"])
    environment: dict[str, Any] = answer["results"][0]["environment"]
    return environment


async def _served(farm: str, seat: Seat, tell: Callable[[str], None]) -> int | None:
    """The signal that ended the worker; None where the scheduler did."""
    await _check_scheduler(farm)
    told = {"board": seat.spec.profile, "place": place_of(seat.spec), "versions": own_versions()}
    worker = Worker(
        farm,
        nthreads=1,
        name=f"{told['board']}-{told['place']}-{secrets.token_hex(2)}",
        resources={resource_of(seat.spec.profile): 1},
        startup_information={ANNOUNCED: lambda _worker: told},
        plugins=(seat,),
        memory_limit=0,  # jobs are processes of their own
        death_timeout=CONNECT_SECONDS,
    )
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        seat.end("")
        asyncio.ensure_future(worker.close(reason="signal"))  # noqa: RUF006  the worker is awaited below

    async with worker:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        tell(f"{worker.name} serves {farm}")
        await worker.finished()
    return received[0] if received else None


async def _check_scheduler(farm: str) -> None:
    try:
        security = Security().get_connection_args("worker")
        async with rpc(farm, timeout=CONNECT_SECONDS, connection_args=security) as scheduler:
            told = await scheduler.versions()
    except (OSError, ValueError, TypeError) as error:  # TypeError: tls:// without certificates
        raise BoardError(f"--farm {farm}: no scheduler there: {error}; {REMEDY}") from error
    reason = misfit(of_scheduler(told), "the scheduler")
    if reason is not None:
        raise MissingRuntimeError(f"--farm {farm}: {reason}")
