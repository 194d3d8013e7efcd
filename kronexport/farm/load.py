"""How much a client has given to each board, so that a job goes to one that has the least to do.

Dask would choose, but by a look at every board that a job may run on: too much for each of a thousand (docs/scale.md).
"""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Load:
    """Jobs under way by the address of the board that they were meant for; threads may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: Counter[str] = Counter()

    @contextmanager
    def least(self, addresses: Sequence[str]) -> Iterator[str]:
        """The one of ``addresses`` that has the least to do, the first of equals, for a job that runs meanwhile."""
        with self._lock:
            address = min(addresses, key=self._jobs.__getitem__)
            self._jobs[address] += 1
        try:
            yield address
        finally:
            with self._lock:
                self._jobs[address] -= 1
