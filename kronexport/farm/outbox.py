"""Requests that several threads make within a moment, sent together: the first waits for the others, and sends all.

Each graph costs dask's scheduler about as much as the job in it (docs/scale.md); a graph may hold many.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

GATHER_SECONDS: Final = 0.02
"""So long the first waits; a job takes seconds."""

Request = TypeVar("Request")
Answer = TypeVar("Answer")


@dataclass(slots=True)
class Outbox(Generic[Request, Answer]):
    """Requests on their way to ``send``, which gives one answer for each, in their order."""

    send: Callable[[Sequence[Request]], Sequence[Answer]]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _waiting: list[tuple[Request, "Future[Answer]"]] = field(default_factory=list)

    def put(self, request: Request) -> Answer:
        """The answer to ``request``; raises what ``send`` does, and so do all that were sent with it."""
        place: Future[Answer] = Future()
        with self._lock:
            is_first = not self._waiting
            self._waiting.append((request, place))
        if is_first:
            try:
                time.sleep(GATHER_SECONDS)
            finally:  # a signal ends this thread's wait alone: the others' requests are sent all the same
                with suppress(Exception):
                    self._send_all()
        return place.result()

    def _send_all(self) -> None:
        with self._lock:
            taken, self._waiting = self._waiting, []
        try:
            for (_, place), answer in zip(taken, self.send([request for request, _ in taken]), strict=True):
                place.set_result(answer)
        except BaseException as error:
            for _, place in taken:
                if not place.done():
                    place.set_exception(error)
            raise
