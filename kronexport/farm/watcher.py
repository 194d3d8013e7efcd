"""One thread that looks which boards are there, for all threads that wait for them.

A thousand that looked themselves, or woke up to ask, would leave the one that receives their results no time.
"""

import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any


class GoneError(Exception):
    """None of the boards that were waited for is there any more."""


class Watcher:
    """Looks every so many seconds from the first wait on, until it is closed.

    Args:
        look: gives the addresses of what is there.
        seconds: from one look to the next.
    """

    def __init__(self, look: Callable[[], set[str]], seconds: float) -> None:
        self._look, self._seconds = look, seconds
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._waits: dict[Future[None], Collection[str]] = {}
        self._listeners: list[Callable[[set[str]], None]] = []

    def add_listener(self, listener: Callable[[set[str]], None]) -> None:
        """Call ``listener`` with what is there, at each look, by the watcher's thread."""
        with self._lock:
            self._listeners.append(listener)

    def wait(self, done: "Future[Any]", addresses: Collection[str]) -> None:
        """Until ``done`` is over.

        Raises:
            GoneError: before that all that was at ``addresses`` went.
            Exception: what ``look`` or a listener raises.
            CancelledError: the watcher was closed.
        """
        over: Future[None] = Future()
        with self._lock:
            self._waits[over] = addresses
            if self._closed.is_set():
                over.cancel()
            elif self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="kronexport-watcher", daemon=True)
                self._thread.start()
        done.add_done_callback(lambda _: _end(over, None))
        try:
            over.result()
        finally:
            with self._lock:
                del self._waits[over]

    def is_closed_within(self, seconds: float) -> bool:
        """Wait for so long, or until it is closed."""
        return self._closed.wait(seconds)

    def close(self) -> None:
        """Look no more; waits are cancelled."""
        with self._lock:
            self._closed.set()
            for over in self._waits:
                over.cancel()

    def _watch(self) -> None:
        while not self._closed.wait(self._seconds):
            with self._lock:
                waits, listeners = dict(self._waits), list(self._listeners)
            try:
                there = self._look()
                for listener in listeners:
                    listener(there)
            except Exception as error:  # noqa: BLE001  those who wait raise it
                for over in waits:
                    _end(over, error)
                continue
            for over, addresses in waits.items():
                if there.isdisjoint(addresses):
                    _end(over, GoneError(", ".join(addresses)))


def _end(over: "Future[None]", error: Exception | None) -> None:
    with suppress(InvalidStateError):  # the other of two ends came first
        if error is None:
            over.set_result(None)
        else:
            over.set_exception(error)
