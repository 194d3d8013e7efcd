"""The measured time of forms: from the store where it is known, else raced against the layer left dense.

Models of one layer are timed in batches, each in a fresh process with the dense one as the reference. A machine is not
equally fast at all times, so what is carried over from one batch to another is the ratio to dense:

    seconds = dense's floor / speed-up        (the median over rounds of dense's fastest inference / the form's)

with dense's floor, the median of these inferences, from the batch that was timed first.
"""

import shutil
import tempfile
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kronexport.backends.profile import TargetProfile
from kronexport.errors import KronexportError
from kronexport.machines.base import Machine
from kronexport.machines.here import HERE
from kronexport.measure.batches import Batch, Timed, fitting
from kronexport.measure.lanes import lanes
from kronexport.measure.micro import Trial
from kronexport.measure.race import RaceResult, RaceTiming, settled_race
from kronexport.measure.setting import Setting
from kronexport.measure.store import Conditions, MeasurementStore, StoredTime, conditions_of
from kronexport.measure.work import MeasuredCost, work_of
from kronexport.records import Precision, ProgressCallback


@dataclass(frozen=True, slots=True)
class FormTimes:
    """Every trial that was asked for is in one of the three.

    ``seconds`` of one inference, comparable among forms of one layer and among layers. ``set_aside``: the reason why
    there is no time, in the runtime's words. ``left``: those that were not reached before time was up.
    """

    seconds: dict[Trial, float]
    set_aside: dict[Trial, str]
    left: tuple[Trial, ...] = ()


def unlimited() -> bool:
    """Time is never up."""
    return False


def measured_costs(
    profile: TargetProfile,
    threads: int,
    store: MeasurementStore,
    timing: RaceTiming | None = None,
    precision: Precision = "fp32",
    *,
    machine: Machine = HERE,
) -> list[MeasuredCost]:
    """All that the store knows of ``machine`` under the target's conditions, in the order of its keys.

    Raises:
        MissingRuntimeError: The machine does not have the runtime.
        UserInputError: Nothing can be timed on this runtime.
    """
    times, work = store.times(conditions_of(profile.backend, threads, precision, timing, machine=machine)), store.work()
    return [
        MeasuredCost(reference, work[model], _seconds(times, model, reference))
        for model, reference in sorted(times)
        if model in work and (reference, reference) in times
    ]


def measure_forms(
    trials: Sequence[Trial],
    profile: TargetProfile,
    threads: int,
    store: MeasurementStore,
    *,
    progress: ProgressCallback,
    timing: RaceTiming | None = None,
    time_is_up: Callable[[], bool] = unlimited,
    precision: Precision = "fp32",
    machine: Machine = HERE,
) -> FormTimes:
    """The time of each trial on ``machine``; what the store does not know is timed, and kept batch by batch.

    Args:
        trials: Forms of any layers, the dense ones among them if their time is wanted too.
        profile: Says the runtime and the opset.
        threads: Threads of one inference.
        store: What is known; gets what is measured.
        progress: Told ("measure", models that are known, models in all).
        timing: How long; None: ``RaceTiming()``.
        time_is_up: Asked before each batch; what is not known then is left.
        precision: Of the network that the layers are part of.
        machine: Where they run.

    Raises:
        MissingRuntimeError: The machine does not have the runtime.
        UserInputError: Nothing can be timed on this runtime, or the threads are not positive.
    """
    conditions = conditions_of(profile.backend, threads, precision, timing, machine=machine)
    models = {trial: Timed.of(trial, profile.opset, precision) for trial in trials}
    total = len({model.pair for model in models.values()})
    campaign = _Campaign(profile, conditions, store, machine)
    campaign.describe(models.values())
    with tempfile.TemporaryDirectory(prefix="kronexport-forms-") as folder:
        missing = campaign.run(
            models.values(), Path(folder), time_is_up, lambda left: progress("measure", total - left, total)
        )
    progress("measure", total, total)
    return campaign.found(models, missing)


@dataclass(slots=True)
class _Campaign:
    """One call of ``measure_forms``.

    ``lost``: by pair, why the process that timed it was lost, or what it ran out of. It isn't stored: memory may only
    have run out this once.
    ``suspects``: pairs of a batch whose process was lost, which race alone to find the one that is to blame.
    """

    profile: TargetProfile
    conditions: Conditions
    store: MeasurementStore
    machine: Machine
    lost: dict[tuple[str, str], str] = field(default_factory=dict)
    suspects: set[tuple[str, str]] = field(default_factory=set)

    def run(
        self, models: Collection[Timed], folder: Path, time_is_up: Callable[[], bool], tell: Callable[[int], None]
    ) -> dict[tuple[str, str], Timed]:
        """Time the missing ``models``, those of as many layers at once as the machine is wide.

        Batches of one layer run one after the other, so that its dense time is always that of the same batch.

        Args:
            models: what is wanted.
            folder: for the files of batches.
            time_is_up: asked before each batch.
            tell: told how many are missing.

        Returns:
            What is still missing since time was up.
        """
        running: dict[Future[RaceResult], Batch] = {}
        with lanes(self.machine.width) as pool:
            while True:
                missing = self.missing(models)
                if missing:
                    tell(len(missing))
                while len(running) < self.machine.width:
                    wanted = self.next_batch(missing, {batch.layer for batch in running.values()})
                    if not wanted or time_is_up():
                        break
                    batch = Batch.written(wanted, self.profile.opset, self.conditions.precision, folder)
                    running[pool.submit(self.raced, batch)] = batch
                if not running:
                    return missing
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    self.learn(running.pop(done), done)

    def describe(self, models: Iterable[Timed]) -> None:
        """Keep what each model does beside its time, for fits to come."""
        known = self.store.work()
        wanted = {each.key: each.trial for model in models for each in (model, model.dense)}
        new = {key: work_of(trial.form, trial.batch) for key, trial in wanted.items() if key not in known}
        if new:
            self.store.describe(new)

    def missing(self, models: Iterable[Timed]) -> dict[tuple[str, str], Timed]:
        """The models, each once, of which nothing is known; another process may have measured some meanwhile."""
        times, failures = self.store.times(self.conditions), self.store.failures(self.conditions)

        def is_known(model: Timed) -> bool:
            timed = model.pair in times and model.dense.pair in times
            return timed or model.key in failures or not self.lost.keys().isdisjoint((model.pair, model.dense.pair))

        return {model.pair: model for model in models if not is_known(model)}

    def next_batch(self, missing: Mapping[tuple[str, str], Timed], busy: Container[str]) -> list[Timed]:
        """The next models of a layer that is not ``busy``, dense first; none if there is nothing left to begin."""
        first = next((model for model in missing.values() if model.reference not in busy), None)
        if first is None:
            return []
        reference = first.dense
        if reference.pair in self.suspects and reference.pair not in self.store.times(self.conditions):
            return [reference]
        forms = [model for model in missing.values() if model.reference == reference.key and model.key != reference.key]
        cleared = [model for model in forms if model.pair not in self.suspects]
        return [reference, *(fitting(cleared) if cleared else forms[:1])]

    def learn(self, batch: Batch, done: Future[RaceResult]) -> None:
        """Keep what came out; where the process was lost, those of the batch are raced one by one."""
        try:
            result = done.result()
        except KronexportError as error:
            if type(error) is not KronexportError:  # the user's to mend, whatever form is timed
                raise
            blamed = batch.models[-1].pair
            if len(batch.models) == 1 or (len(batch.models) == 2 and blamed in self.suspects):  # noqa: PLR2004  dense, it
                self.lost[blamed] = str(error)
            self.suspects |= {model.pair for model in batch.models}
            return
        finally:
            shutil.rmtree(batch.folder)
        named = batch.named
        times = [StoredTime.of(*named[name].pair, raced) for name, raced in result.raced.items()]
        self.lost |= {named[name].pair: why for name, why in result.failed.items() if _may_pass(why)}
        lasting = {named[name].key: why for name, why in result.failed.items() if not _may_pass(why)}
        self.store.keep(self.conditions, times, lasting)

    def found(self, models: Mapping[Trial, Timed], missing: Container[tuple[str, str]]) -> FormTimes:
        """What has become of each; nothing is known of the missing."""
        times, failures = self.store.times(self.conditions), self.store.failures(self.conditions)
        lost = {**failures, **{key: reason for (key, _), reason in self.lost.items()}}
        result = FormTimes({}, {}, tuple(trial for trial, model in models.items() if model.pair in missing))
        for trial, model in models.items():
            if model.pair in missing:
                continue
            if model.pair in times:
                result.seconds[trial] = _seconds(times, *model.pair)
            else:
                result.set_aside[trial] = lost.get(model.key) or lost[model.reference]
        return result

    def raced(self, batch: Batch) -> RaceResult:
        """What ``settled_race`` says of it."""
        spec = batch.models[0].trial.input
        setting = Setting(self.profile.backend, self.conditions.threads, spec, machine=self.machine)
        return settled_race(batch.paths, setting, self.conditions.timing)


def _may_pass(why: str) -> bool:
    """Whether a failure says more of the moment than of the model: memory, disk, files or threads ran out."""
    text = why.lower()
    return any(sign in text for sign in _RAN_OUT)


_RAN_OUT: Final = (
    *("alloc", "out of memory", "memoryerror", "no space left"),
    *("resource temporarily unavailable", "too many open files"),
    *("pthread_create", "create thread", "start new thread"),
)


def _seconds(times: Mapping[tuple[str, str], StoredTime], model: str, reference: str) -> float:
    return times[reference, reference].floor / times[model, reference].speedup
