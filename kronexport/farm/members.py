"""What became of each board of a fleet, and what a reader of its times has to know of that."""

import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from kronexport.farm.calibration import Limits, difference, factor_of, identity, unit_of
from kronexport.farm.farm import Seen
from kronexport.measure.race import Raced

log = logging.getLogger("kronexport")

State = Literal["ready", "scaled", "set aside", "quarantined", "lost"]
"""A board that is ready or scaled gets work; one that is quarantined gets none until its worker is started again."""


@dataclass(frozen=True, slots=True)
class Member:
    """A board.

    Attributes:
        seen: its worker.
        state: what became of it.
        reason: why it gets no work.
        reference: what the reference took on it; None: it did not run.
        environment: what the board tells of itself.
        factor: what its times are multiplied by.
    """

    seen: Seen
    state: State
    reason: str = ""
    reference: Raced | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    factor: float = 1.0

    @property
    def is_ready(self) -> bool:
        """Whether it gets work."""
        return self.state in ("ready", "scaled")

    @property
    def reference_ms(self) -> float:
        """NaN where the reference did not run."""
        return math.nan if self.reference is None else self.reference.floor_ms


class Members:
    """All boards of a fleet by their workers' names; threads may use it.

    Args:
        limits: how far they may be apart.
        tell: told a worker's name and what became of its board.
    """

    def __init__(self, limits: Limits, tell: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._limits = limits
        self._tell = tell
        self._lock = threading.RLock()
        self._members: dict[str, Member] = {}
        self._home: str | None = None
        self._unit: float | None = None

    def __getitem__(self, name: str) -> Member:
        return self._members[name]

    def __contains__(self, name: str) -> bool:
        return name in self._members

    @property
    def ready(self) -> list[Member]:
        """Those that get work."""
        with self._lock:
            return [member for member in self._members.values() if member.is_ready]

    @property
    def home(self) -> Member | None:
        """The one that networks are timed on: the nearest to the unit, as long as it is there; None: there is none."""
        with self._lock:
            ready = {member.seen.name: member for member in self.ready}
            if self._home not in ready:
                unit = self._unit or 1.0
                by_distance = sorted(ready, key=lambda name: abs(ready[name].reference_ms / unit - 1))
                self._home = by_distance[0] if by_distance else None
            return ready[self._home] if self._home is not None else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found out about them."""
        with self._lock:
            timed = [member for member in self._members.values() if member.reference]
            names = ", ".join(member.seen.name for member in timed if member.is_ready)
            first = f"times of forms come from boards of a farm: {names}; a reference is timed after each race"
            return (
                first,
                *(_scaling(member, self._unit) for member in timed if member.factor != 1),
                *(f"{member.seen.name} is {member.state}: {member.reason}" for member in self._left()),
            )

    def refuse(self, seen: Seen, state: State, reason: str) -> None:
        """A board that never gets work."""
        self._put(Member(seen, state, reason))

    def leave(self, name: str, state: State, reason: str) -> None:
        """A board gets no more work."""
        with self._lock:
            if self._members[name].is_ready:
                self._put(replace(self._members[name], state=state, reason=reason))

    def judge(self, found: Sequence[Member], known: Callable[[dict[str, Any]], float | None]) -> None:
        """Give work to those that are equal to the others, or nearly so.

        Args:
            found: boards with the time of their reference.
            known: the unit of an earlier plan on boards with this environment.
        """
        with self._lock:
            home = self.home
            environment = home.environment if home else _most_common(found)
            alike = [member for member in found if identity(member.environment) == identity(environment)]
            if home is None:
                self._unit = None  # it was of boards that are all gone; these may be of another kind
            if self._unit is None and alike:
                references = {member.seen.name: member.reference_ms for member in alike}
                self._unit = unit_of(references, known(environment))
            for member in found:
                self._put(self._judged(member, environment))

    def _judged(self, member: Member, expected: Mapping[str, Any]) -> Member:
        if different := difference(member.environment, expected):
            return replace(member, state="set aside", reason=f"it is another board: {different}")
        assert self._unit is not None  # noqa: S101  the expected environment is that of one of them
        factor = factor_of(member.reference_ms, self._unit, self._limits)
        if factor is None:
            percent = 100 * (member.reference_ms / self._unit - 1)
            reason = (
                f"its reference took {member.reference_ms:.3g} ms, {percent:+.0f} % from the farm's "
                f"{self._unit:.3g} ms (limit {100 * self._limits.most:.0f} %); where no board is near, those have "
                f"changed that were timed before: kronexport cache clean begins anew"
            )
            return replace(member, state="set aside", reason=reason)
        return replace(member, state="ready" if factor == 1 else "scaled", factor=factor)

    def _left(self) -> list[Member]:
        return [member for member in self._members.values() if member.reason]

    def _put(self, member: Member) -> None:
        with self._lock:
            self._members[member.seen.name] = member
        if member.reason:
            log.warning("farm: %s is %s: %s", member.seen.name, member.state, member.reason)
        told = {"state": member.state, "reason": member.reason, "factor": member.factor}
        self._tell(member.seen.name, {**told, "reference_ms": member.reference_ms if member.reference else None})


def _scaling(member: Member, unit: float | None) -> str:
    return (
        f"{member.seen.name} is scaled: its reference took {member.reference_ms:.3g} ms, the farm's {unit:.3g} ms; its "
        f"times were multiplied by {member.factor:.3f}"
    )


def _most_common(found: Sequence[Member]) -> dict[str, Any]:
    """The environment that most of them have."""
    counts = Counter(identity(member.environment) for member in found)
    return max((member.environment for member in found), key=lambda told: counts[identity(told)], default={})
