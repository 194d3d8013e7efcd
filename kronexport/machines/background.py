"""An asyncio loop in a thread of its own, for ordinary code that waits for what runs in it."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """A running loop; stop it. ``name`` is the thread's."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """What ``work`` comes to; it is cancelled on Ctrl-C.

        Raises:
            TimeoutError: after ``seconds``.
        """
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, seconds), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def repeat(self, action: Callable[[], object], seconds: float) -> None:
        """Do ``action`` in the loop every so many ``seconds``, until it raises OSError or the loop is stopped."""

        def once() -> None:
            with suppress(OSError):
                action()
                self._loop.call_later(seconds, once)

        self._loop.call_soon_threadsafe(once)

    def stop(self) -> None:
        """Cancel all that runs, and end the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(_cancelled())
        self._loop.close()


async def _cancelled() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
