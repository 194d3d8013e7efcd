"""A farm as a client sees it: dask's scheduler, the boards that its workers have, and jobs on them."""

import asyncio
import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from types import TracebackType
from typing import Any, Final, Self, cast

import dask
from distributed import Client, Future, KilledWorker
from distributed.client import ClosedClientError

from kronexport.errors import BoardError, MissingRuntimeError
from kronexport.farm.address import checked_address
from kronexport.farm.jobs import run_jobs
from kronexport.farm.load import CHOICES
from kronexport.farm.outbox import Outbox
from kronexport.farm.parcel import Files, Job
from kronexport.farm.versions import misfit, of_scheduler
from kronexport.farm.watcher import Watcher

ANNOUNCED: Final = "kronexport"
"""What a worker tells of its board is below this key, and so is what clients tell of boards."""

QUIET: Final = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
}
"""Of dask's configuration, for a worker: by default it wakes up a hundred times a second, and it may be the board."""

CONNECT_SECONDS: Final = 10.0
WATCH_SECONDS: Final = 2.0
"""So often a client that waits for jobs looks whether their boards are there."""
_CLOSE_SECONDS: Final = 5.0

REMEDY: Final = "start one by: dask scheduler (tls:// needs certificates in dask's configuration)"
_GONE: Final = (OSError, AttributeError, RuntimeError, ClosedClientError)
"""What dask raises of a client that has lost its scheduler; a timeout is an OSError."""
_LARGE_JOBS: Final = {"distributed.admin.large-graph-warning-threshold": "1TB"}
"""A job holds its models."""
_GRAPH_BYTES: Final = 2**24
"""Of the jobs that travel in one graph, which the scheduler reads at once."""
_GATHER_SECONDS: Final = 0.2
"""The longest that a job waits for others to travel with, and what of it for each job that is under way."""
_GATHER_SECONDS_A_JOB: Final = 0.001


@dataclass(frozen=True, slots=True)
class Seen:
    """A worker with a board.

    Attributes:
        name: the worker's, another each time that it is started.
        address: where the scheduler reaches it.
        profile: the target that its board is.
        place: what the board is called.
        versions: the worker's (``versions.own_versions``).
        jobs: those that it has: the first runs.
    """

    name: str
    address: str
    profile: str
    place: str
    versions: Mapping[str, str]
    jobs: int


@dataclass(frozen=True, slots=True)
class Begun:
    """Jobs under way on one of the boards at ``addresses``."""

    future: Future[Any]
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Call:
    """``arguments`` of ``run_jobs``, and the boards of ``profile`` that it may run on, its own first."""

    arguments: tuple[list[Job], list[float], Files, bool]
    profile: str
    addresses: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(map(len, self.arguments[2].values()))


def _together(calls: Sequence[_Call]) -> list[list[int]]:
    """Which calls travel in one graph: at most ``CHOICES`` of a profile, and ``_GRAPH_BYTES`` unless it is one."""
    groups: list[list[int]] = []
    latest: dict[str, tuple[list[int], int]] = {}
    for index, call in enumerate(calls):
        group, size = latest.get(call.profile, ([], 0))
        if not group or len(group) == CHOICES or size + call.size > _GRAPH_BYTES:
            group, size = [], 0
            groups.append(group)
        group.append(index)
        latest[call.profile] = group, size + call.size
    return groups


def _shared(calls: Sequence[_Call]) -> tuple[str, ...]:
    """The boards that calls which travel together may run on: their own first, and no more than ``CHOICES``."""
    in_turn = dict.fromkeys(chain((call.addresses[0] for call in calls), *(call.addresses for call in calls)))
    return tuple(islice(in_turn, CHOICES))


def resource_of(profile: str) -> str:
    """The resource of which a worker has one for each board of this target: its own.

    Jobs name their boards and take none of it, since the scheduler would look for it among all workers; that a board
    has one job at a time is by its worker's one thread.
    """
    return f"board:{profile}"


class Farm:
    """A connection to a farm; a context manager. At its end what it still has under way is cancelled.

    Args:
        address: the scheduler's, ``tcp://HOST:PORT`` or ``tls://HOST:PORT``.

    Raises:
        UserInputError: the address is none.
        BoardError: there is no scheduler.
        MissingRuntimeError: its release of dask, or of Python, is another than here.
    """

    def __init__(self, address: str) -> None:
        self.address = checked_address(address)
        logging.getLogger("distributed").setLevel(logging.ERROR)  # a worker that is lost is told of in our own words
        try:
            self._client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False, name="kronexport")
        except (OSError, ValueError, TypeError) as error:  # TypeError: tls:// without certificates
            raise BoardError(f"--farm {address}: no scheduler there: {error}; {REMEDY}") from error
        self._under_way: set[Future[Any]] = set()
        self.watcher = Watcher(self.addresses, WATCH_SECONDS)
        self._outbox: Outbox[_Call, Begun] = Outbox(self._submitted, self._patience)
        told = self._asked("versions")
        reason = misfit(of_scheduler(told), "the scheduler")
        if reason is not None:
            self.close()
            raise MissingRuntimeError(f"--farm {address}: {reason}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is under way, which ends it on its boards, and leave."""
        self.watcher.close()
        with suppress(*_GONE, CancelledError):
            if self._under_way:
                self._client.cancel(list(self._under_way), force=True)
        with suppress(*_GONE):
            self._client.close(timeout=_CLOSE_SECONDS)

    def seen(self) -> list[Seen]:
        """All workers that have a board, by name."""
        told = self._asked("identity", n_workers=-1)
        return sorted(
            (_seen(address, worker) for address, worker in told["workers"].items() if ANNOUNCED in worker),
            key=lambda one: one.name,
        )

    def addresses(self) -> set[str]:
        """Those of all workers, which tell little of them: to know which are there, and no work for the scheduler."""
        return set(self._asked("ncores"))

    def _asked(self, question: str, **options: Any) -> Any:
        """What the scheduler answers itself."""
        with self._there():
            return self._client.sync(getattr(self._client.scheduler, question), **options)

    @contextmanager
    def _there(self) -> Iterator[None]:
        """Tells of a scheduler that has gone in our own words."""
        try:
            yield
        except _GONE as error:
            raise BoardError(f"--farm {self.address}: the scheduler is gone; {REMEDY}") from error

    def told(self) -> dict[str, dict[str, Any]]:
        """What clients have told of boards, by their workers' names."""
        with self._there():
            return dict(self._client.get_metadata([ANNOUNCED], default={}))

    def tell(self, name: str, state: Mapping[str, Any]) -> None:
        """Tell other clients, and ``farm status``, what became of a board; known until the scheduler ends."""
        with self._there():
            self._client.set_metadata([ANNOUNCED, name], dict(state))

    def rest(self, seconds: float) -> None:
        """Wait for so long; raises ``BoardError`` where the farm is left meanwhile."""
        if self.watcher.is_closed_within(seconds):
            raise BoardError(f"--farm {self.address}: left while a board rested")

    def begin(
        self,
        jobs: Sequence[Job],
        seconds: Sequence[float],
        files: Files,
        profile: str,
        addresses: Sequence[str],
        *,
        movable: bool = False,
        keep: bool = False,
    ) -> Begun:
        """Have ``run_jobs`` run on a worker; ``finish`` it.

        Args:
            jobs: one after the other.
            seconds: the longest that each may take.
            files: what they read that the board does not keep.
            profile: the target that the boards are.
            addresses: of workers that will do, one or few, the one that is most likely to be idle first.
            movable: any other board that this client gives such jobs to will do as well, so that jobs which other
                threads begin within a moment travel with it and share their boards.
            keep: the board keeps the files for later jobs.

        Raises:
            BoardError: the scheduler is gone.
        """
        call = _Call((list(jobs), list(seconds), files, keep), profile, tuple(addresses))
        with self._there():
            return self._outbox.put(call) if movable else self._submitted([call])[0]

    def _patience(self) -> float:
        """Seconds that a job waits for others to travel with: a graph costs the scheduler most where much goes on."""
        return min(_GATHER_SECONDS, len(self._under_way) * _GATHER_SECONDS_A_JOB)

    def _submitted(self, calls: Sequence[_Call]) -> list[Begun]:
        """Each call under way."""
        begun: dict[int, Begun] = {}
        for indices in _together(calls):
            addresses = _shared([calls[index] for index in indices])
            with dask.config.set(_LARGE_JOBS):
                futures = self._client.map(
                    run_jobs,
                    *zip(*(calls[index].arguments for index in indices), strict=True),
                    key=[f"kronexport-{uuid.uuid4().hex}" for _ in indices],
                    workers=list(addresses),
                    pure=False,
                )
            self._under_way.update(futures)
            begun |= {index: Begun(future, addresses) for index, future in zip(indices, futures, strict=True)}
        return [begun[index] for index in range(len(calls))]

    def finish(self, begun: Begun) -> dict[str, Any]:
        """What ``run_jobs`` answers.

        Raises:
            GoneError: none of the workers that may run them is there any more; they are cancelled.
            BoardError: several workers died of the jobs, or the scheduler is gone.
        """
        # not by future.result(timeout=...): dask fetches results together, and who gives up waiting would cancel all
        with self._there():
            loop: Any = self._client.loop
            gathered = self._client.gather([begun.future], asynchronous=True)
            fetched = asyncio.run_coroutine_threadsafe(gathered, loop.asyncio_loop)
        try:
            self.watcher.wait(fetched, begun.addresses)
            (answer,) = fetched.result()
            return cast("dict[str, Any]", answer)
        except KilledWorker as error:
            raise BoardError(f"--farm {self.address}: several workers died of one job: {error}") from error
        except (CancelledError, OSError) as error:
            raise BoardError(
                f"--farm {self.address}: the job was cancelled, or the scheduler is gone; {REMEDY}"
            ) from error
        except BaseException:
            begun.future.cancel()
            raise
        finally:
            self._under_way.discard(begun.future)


def _seen(address: str, worker: Mapping[str, Any]) -> Seen:
    told = worker[ANNOUNCED]
    counts = worker["metrics"].get("task_counts", {})
    return Seen(
        name=str(worker["name"]),
        address=address,
        profile=told["board"],
        place=told["place"],
        versions=told["versions"],
        jobs=sum(count for state, count in counts.items() if state in ("executing", "constrained", "ready")),
    )
