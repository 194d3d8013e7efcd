"""How much a client has given to each board, so that a job names few, which have the least to do.

Dask chooses among these, but by a look at every board that a job may run on: too many in a thousand (docs/scale.md).
"""

import heapq
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Load:
    """Jobs under way by the address of the board that each was given; threads may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: Counter[str] = Counter()

    @contextmanager
    def least(self, addresses: Sequence[str], count: int) -> Iterator[list[str]]:
        """The ``count`` of ``addresses`` with the least to do, for a job that runs meanwhile and is given the first.

        Of equals those that come first are taken.
        """
        with self._lock:
            chosen = heapq.nsmallest(count, addresses, key=self._jobs.__getitem__)
            self._jobs[chosen[0]] += 1
        try:
            yield chosen
        finally:
            with self._lock:
                self._jobs[chosen[0]] -= 1
