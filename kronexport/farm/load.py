"""How much a client has given to each board, so that a job of a large farm names its own.

Dask chooses among those that a job names, but by a look at every one: too many in a thousand (docs/scale.md).
"""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

CHOICES: Final = 8
"""Boards that a job names, and jobs in one graph at most: the scheduler looks at all these boards for each job."""


class Load:
    """Jobs under way by the address of the board that each was given; threads may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: Counter[str] = Counter()

    @contextmanager
    def least(self, addresses: Sequence[str]) -> Iterator[list[str]]:
        """The boards to name for a job that runs meanwhile: first that with the least to do, which it is given.

        Of up to ``CHOICES`` boards all are named. Of more none but the first: dask would take another of some, and
        leave the one that this client counts as busy idle. Of equals those that come first are taken.
        """
        with self._lock:
            if len(addresses) > CHOICES:
                chosen = [min(addresses, key=self._jobs.__getitem__)]
            else:
                chosen = sorted(addresses, key=self._jobs.__getitem__)
            self._jobs[chosen[0]] += 1
        try:
            yield chosen
        finally:
            with self._lock:
                self._jobs[chosen[0]] -= 1
