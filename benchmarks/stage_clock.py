"""Where the time of a build or a plan goes, by the stages that it tells of."""

import time
from collections import defaultdict
from collections.abc import Callable

REST = ""
"""The stage of all time between the last step of one stage and the first word of the next."""


class StageClock:
    """A progress callback that keeps time from when it is made.

    Attributes:
        seconds: by stage; the sum of all is the time until the last call of ``total``.
        started: seconds from the beginning to a stage's first word.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._since = clock()
        self._stage = REST
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.started: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = self._pass()
        self.started.setdefault(stage, now - self._began)
        self._stage = stage if done < total else REST

    def total(self) -> float:
        """Seconds from the beginning to now."""
        return self._pass() - self._began

    def _pass(self) -> float:
        """Give the time since the last call to the stage at work."""
        now = self._clock()
        self.seconds[self._stage] += now - self._since
        self._since = now
        return now
