"""Requests that several threads make within a moment, sent together.

A graph of its own for each job would cost dask's scheduler a part of its time; a graph may hold many (docs/scale.md).
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class Outbox(Generic[Request, Answer]):
    """Requests on their way to ``send``, which gives one answer for each, in their order; it may get none.

    A thread of its own sends them: a signal, which interrupts the main thread, keeps nobody else waiting.

    Args:
        send: as above.
        patience: the seconds that the first request waits for others.
    """

    def __init__(self, send: Callable[[Sequence[Request]], Sequence[Answer]], patience: Callable[[], float]) -> None:
        self._send, self._patience = send, patience
        self._lock = threading.Lock()
        self._waiting: list[tuple[Request, Future[Answer]]] = []

    def put(self, request: Request) -> Answer:
        """The answer to ``request``, after ``patience`` at most and the sending.

        Raises:
            Exception: what ``send`` raises, as do all that were sent with it.
        """
        answer: Future[Answer] = Future()
        with self._lock:
            if not self._waiting:
                threading.Timer(self._patience(), self._send_all).start()
            self._waiting.append((request, answer))
        return answer.result()

    def _send_all(self) -> None:
        with self._lock:
            taken, self._waiting = self._waiting, []
        try:
            found = list(zip(taken, self._send([request for request, _ in taken]), strict=True))
            for (_, answer), value in found:
                answer.set_result(value)
        except Exception as error:  # noqa: BLE001  those who wait raise it
            for _, answer in taken:
                answer.set_exception(error)
