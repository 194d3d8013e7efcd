"""Equal boards of a farm as one machine: races run on any of them, all else on one, and each is checked as it goes."""

import logging
import tempfile
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir

from kronexport.backends.profile import TargetProfile
from kronexport.errors import BoardError, UserInputError, error_of
from kronexport.farm.calibration import Limits, has_drifted, reference_trial, scaled
from kronexport.farm.farm import Begun, Farm, Seen
from kronexport.farm.load import Load
from kronexport.farm.members import Member, Members
from kronexport.farm.parcel import Files, Job, packed
from kronexport.farm.versions import misfit
from kronexport.farm.watcher import GoneError
from kronexport.files import write_bytes_aside
from kronexport.measure.micro import micro_key, micro_model
from kronexport.measure.race import RaceTiming, race_result
from kronexport.measure.setting import Setting
from kronexport.measure.store import Conditions, MeasurementStore, StoredTime, conditions_in
from kronexport.records import Precision

log = logging.getLogger("kronexport")

REFERENCE_SECONDS: Final = 300.0
"""The longest that the reference may take, loading included."""

RESTS: Final = (2.0, 10.0)
"""Seconds after which a reference that has changed is run again, in turn: a board that was busy, or hot, for a moment
is the board that it was."""
IN_A_ROW: Final = 3
"""So many jobs after which the reference has changed, if only for a moment, are no chance."""

_SPREAD: Final = "race"
"""The task of forms of layers, whose times may come from any board; whole networks are timed on one, as they are."""
_CHECKED: Final = (_SPREAD, "bench")
_REFERENCE: Final = "reference"


@dataclass(frozen=True, slots=True)
class Terms:
    """What the boards of a fleet are compared by: its target, threads, precision, and how long forms are timed.

    ``rests``: the seconds that a board is left alone before each further run of a reference that has changed.
    """

    profile: TargetProfile
    threads: int
    precision: Precision
    timing: RaceTiming
    limits: Limits = field(default_factory=Limits)
    rests: tuple[float, ...] = RESTS

    @property
    def reference_pair(self) -> tuple[str, str]:
        """What the time of the reference is stored under."""
        key = micro_key(reference_trial(), self.profile.opset, self.precision)
        return key, key


class Fleet:
    """See ``Machine``: the boards of one target that a farm has, as far as they are equal.

    A race is followed by the reference on the same board and in the same lease. Where that has changed the race is
    run again, and so is the reference, after a rest: a board that stays changed, or changes under each job, is
    quarantined.

    Args:
        farm: that they are in.
        terms: what they are compared by.

    Raises:
        UserInputError: the farm has no board of the target.
        BoardError: none of its boards can be used; says why of each.
    """

    def __init__(self, farm: Farm, terms: Terms) -> None:
        self._farm = farm
        self._terms = terms
        self._lock = threading.RLock()
        self._members = Members(terms.limits, farm.tell)
        self._load = Load()
        farm.watcher.add_listener(self._miss)
        self._drifted: Counter[str] = Counter()
        self._resting: list[str] = []
        self._reference, self._reference_files = _reference_job(terms)
        if not self._look():
            raise UserInputError(
                f"--farm {farm.address}: it has no board {terms.profile.name}; start one by: kronexport farm worker"
            )
        self._admit()
        self._home()

    @property
    def place(self) -> str:
        home, others = self._home(), len(self._members.ready) - 1
        return (
            f"{home.seen.place} (a farm's, with {others} more like it)" if others else f"{home.seen.place} (a farm's)"
        )

    @property
    def width(self) -> int:
        return max(1, len(self._members.ready))

    @property
    def notes(self) -> tuple[str, ...]:
        return self._members.notes

    def environment(self, runtime: str) -> dict[str, Any]:
        """That of the board that networks are timed on; boards that have come since are admitted."""
        if runtime != self._terms.profile.backend:
            raise UserInputError(f"{self.place}: it runs {self._terms.profile.backend}, not {runtime}")
        self._admit()
        return self._home().environment

    def run_agent(self, job: Job, *, timeout_seconds: float) -> dict[str, Any]:
        (moved,), files = packed([job])
        jobs, seconds = [moved], [timeout_seconds]
        if job["task"] in _CHECKED:
            jobs, seconds = [moved, self._reference], [timeout_seconds, REFERENCE_SECONDS]
        movable, profile = job["task"] == _SPREAD, self._terms.profile.name
        while True:
            addresses = self._places() if movable else [self._home().seen.address]
            try:
                with self._load.least(addresses) as chosen:
                    begun = self._farm.begin(jobs, seconds, files, profile, chosen, movable=movable)
                    answer = self._farm.finish(begun)
                result = self._accepted(job, answer)
            except GoneError:
                continue
            if result is not None:
                return result

    def _places(self) -> list[str]:
        """The addresses of boards that may run a race: those that do not rest, if there is one."""
        ready = self._members.ready or [self._home()]
        awake = [one for one in ready if one.seen.name not in self._resting]
        return [one.seen.address for one in awake or ready]

    def _reference_begun(self, address: str) -> Begun:
        """The reference on the board at ``address``, which keeps it for what is run with it."""
        jobs, seconds, profile = [self._reference], [REFERENCE_SECONDS], self._terms.profile.name
        return self._farm.begin(jobs, seconds, self._reference_files, profile, [address], keep=True)

    def _look(self) -> list[Seen]:
        """The workers that are there; boards without one are lost."""
        seen = [one for one in self._farm.seen() if one.profile == self._terms.profile.name]
        self._miss({one.address for one in seen}, {one.name for one in seen})
        return seen

    def _miss(self, addresses: set[str], names: set[str] | None = None) -> None:
        """Workers are at ``addresses``, and have these ``names`` where they were asked; boards without one are lost."""
        for seen in (member.seen for member in self._members.ready):
            if seen.address not in addresses or (names is not None and seen.name not in names):
                self._members.leave(seen.name, "lost", "its worker is gone; what it ran was run elsewhere")

    def _accepted(self, job: Job, answer: dict[str, Any]) -> dict[str, Any] | None:
        """The result of a job; None where it has to run again.

        Raises:
            KronexportError: what the agent said.
        """
        if answer["board"] not in self._members:
            with self._lock:
                self._look()  # lest the same one gets it again
            return None
        board = self._members[answer["board"]]
        if not board.is_ready:
            return None
        if self._fails(board, answer):
            return None
        result, *reference = answer["results"]
        if reference and self._drifts(board, _reference_ms(reference[0])):
            return None
        if "outputs_npz" in job:
            write_bytes_aside(Path(job["outputs_npz"]), answer["outputs"][0])
            result["outputs_npz"] = job["outputs_npz"]
        return scaled(result, board.factor) if job["task"] == _SPREAD else dict(result)

    def _fails(self, board: Member, answer: dict[str, Any]) -> bool:
        """Whether the board was lost; raises what the agent said where it was not."""
        told = answer.get("error")
        if told is None:
            return False
        if not told["lost"]:
            raise error_of(told["code"])(f"{board.seen.place}: {told['message']}")
        self._members.leave(board.seen.name, "lost", f"{told['message']}; what it ran was run elsewhere")
        return True

    def _drifts(self, board: Member, now: float) -> bool:
        """Whether the reference after a job is not what it was; where that is no chance the board is quarantined."""
        name, before, limits = board.seen.name, board.reference_ms, self._terms.limits
        if not has_drifted(now, before, limits):
            self._drifted[name] = 0
            return False
        self._drifted[name] += 1
        if self._drifted[name] < IN_A_ROW and self._is_over(board, now):
            return True
        reason = (
            f"its reference went from {before:.3g} to {now:.3g} ms (limit {100 * limits.drift:.0f} %); what it ran was "
            "run elsewhere; start its worker again when the board is cool and idle"
        )
        self._members.leave(name, "quarantined", reason)
        return True

    def _is_over(self, board: Member, now: float) -> bool:
        """Whether the reference, which took ``now`` ms, is what it was after a rest; also where the board has left."""
        name = board.seen.name
        self._resting.append(name)
        try:
            for seconds in self._terms.rests:
                self._farm.rest(seconds)
                if not self._members[name].is_ready:
                    return True
                answer = self._farm.finish(self._reference_begun(board.seen.address))
                if self._fails(board, answer):
                    return True
                again = _reference_ms(answer["results"][0])
                if not has_drifted(again, board.reference_ms, self._terms.limits):
                    log.info("farm: %s: its reference took %.3g ms for a moment; the job runs again", name, now)
                    return True
            return False
        finally:
            self._resting.remove(name)

    def _home(self) -> Member:
        """The board that networks are timed on; raises ``BoardError`` where there is none any more."""
        home = self._members.home
        if home is None:
            raise BoardError(
                f"--farm {self._farm.address}: no board {self._terms.profile.name} is left: {'; '.join(self.notes[1:])}"
            )
        return home

    # --- admission ----------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Run the reference on boards that are new, each on its own, and judge them by it."""
        with self._lock:
            told = self._farm.told()
            begun: list[tuple[Seen, Begun]] = []
            for one in (one for one in self._look() if one.name not in self._members):
                if self._is_quarantined(one, told):
                    continue
                if reason := misfit(one.versions, "its worker"):
                    self._members.refuse(one, "set aside", reason)
                else:
                    begun.append((one, self._reference_begun(one.address)))
            found = [member for one, each in begun if (member := self._calibrated(one, each)) is not None]
            if found:
                told = self._farm.told()  # another client may have found out meanwhile
                found = [member for member in found if not self._is_quarantined(member.seen, told)]
            if found:
                self._members.judge(found, self._known_unit)
                self._keep_unit()

    def _is_quarantined(self, seen: Seen, told: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether a client has told so of a board, which then gets no work of this one."""
        before = told.get(seen.name, {})
        if before.get("state") != "quarantined":
            return False
        self._members.refuse(seen, "quarantined", before["reason"])
        return True

    def _calibrated(self, seen: Seen, begun: Begun) -> Member | None:
        try:
            answer = self._farm.finish(begun)
        except (GoneError, BoardError):
            self._members.refuse(seen, "lost", "its worker went while the reference ran")
            return None
        if "error" in answer:
            self._members.refuse(seen, "lost", answer["error"]["message"])
            return None
        (result,) = answer["results"]
        raced = race_result(result).raced[_REFERENCE]
        return Member(seen, "ready", reference=raced, environment=result["environment"])

    def _conditions(self, environment: dict[str, Any]) -> Conditions:
        terms = self._terms
        return conditions_in(environment, terms.profile.backend, terms.threads, terms.precision, terms.timing)

    def _known_unit(self, environment: dict[str, Any]) -> float | None:
        """What the reference took when such boards were first timed: what is timed now has to fit to that."""
        with MeasurementStore() as store:
            known = store.times(self._conditions(environment)).get(self._terms.reference_pair)
        return None if known is None else 1000 * known.floor

    def _keep_unit(self) -> None:
        home = self._members.home
        if home is not None and home.reference is not None:
            time = StoredTime.of(*self._terms.reference_pair, home.reference)
            with MeasurementStore() as store:
                store.keep(self._conditions(home.environment), [time], {})


def _reference_job(terms: Terms) -> tuple[Job, Files]:
    """The agent's job that a board is judged by, as it travels."""
    trial = reference_trial()
    with tempfile.TemporaryDirectory(prefix="kronexport-reference-") as folder:
        path = Path(folder, "reference.onnx")
        ir.save(micro_model(trial, terms.profile.opset, terms.precision), path)
        setting = Setting(terms.profile.backend, terms.threads, trial.input)
        (job,), files = packed([setting.job("race", {_REFERENCE: path}) | asdict(terms.timing)])
    return job, files


def _reference_ms(result: dict[str, Any]) -> float:
    return race_result(result).raced[_REFERENCE].floor_ms
