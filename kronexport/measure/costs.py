"""The measured time of forms: from the store where it is known, else raced against the layer left dense.

Models of one layer are timed in batches, each in a fresh process with the dense one as the reference. A machine is not
equally fast at all times, so what is carried over from one batch to another is the ratio to dense:

    seconds = dense's floor / speed-up        (the median over rounds of dense's fastest inference / the form's)

with dense's floor, the median of these inferences, from the batch that was timed first.
"""

import itertools
import tempfile
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import onnx_ir as ir

from kronexport.backends.profile import TargetProfile
from kronexport.errors import KronexportError
from kronexport.machines.base import Machine
from kronexport.machines.here import HERE
from kronexport.measure.micro import Trial, micro_key, micro_model
from kronexport.measure.race import Raced, RaceResult, RaceTiming, settled_race
from kronexport.measure.setting import Setting
from kronexport.measure.store import Conditions, MeasurementStore, StoredTime, conditions_of
from kronexport.measure.work import MeasuredCost, work_of
from kronexport.records import Precision, ProgressCallback

BATCH: Final = 12
"""Models that are open at once, the dense one included; what Ctrl-C may cost."""
OPEN_BYTES: Final = 1024**3
"""Of the images that they read and write: a runtime keeps them, and layers of large images would fill the memory."""


_ELEMENT_BYTES: Final = 4


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
    models = {trial: _Model.of(trial, profile.opset, precision) for trial in trials}
    total = len({model.pair for model in models.values()})
    campaign = _Campaign(profile, conditions, store, machine)
    campaign.describe(models.values())
    while (missing := campaign.missing(models.values())) and not time_is_up():
        progress("measure", total - len(missing), total)
        reference = next(iter(missing.values())).dense
        forms = [model for model in missing.values() if model.reference == reference.key and model.key != reference.key]
        campaign.race(reference, _fitting(forms))
    progress("measure", total, total)
    return campaign.found(models, missing)


@dataclass(frozen=True, slots=True)
class _Model:
    """A trial by what its time is stored under. The reference is the same layer left dense."""

    trial: Trial
    key: str
    reference: str

    @classmethod
    def of(cls, trial: Trial, opset: int, precision: Precision) -> "_Model":
        return cls(trial, micro_key(trial, opset, precision), micro_key(trial.dense, opset, precision))

    @property
    def pair(self) -> tuple[str, str]:
        return self.key, self.reference

    @property
    def dense(self) -> "_Model":
        return _Model(self.trial.dense, self.reference, self.reference)


def _fitting(forms: Sequence[_Model]) -> Sequence[_Model]:
    """As many of the first as may be open at once, at least one."""
    sizes = [_ELEMENT_BYTES * work_of(model.trial.form, model.trial.batch).moved for model in forms[: BATCH - 1]]
    fit = sum(1 for total in itertools.accumulate(sizes) if total <= OPEN_BYTES)
    return forms[: max(1, fit)]


@dataclass(slots=True)
class _Campaign:
    """One call of ``measure_forms``.

    ``lost``: by pair, why the process that timed it was lost. It isn't stored: memory may only have run out this once.
    """

    profile: TargetProfile
    conditions: Conditions
    store: MeasurementStore
    machine: Machine
    lost: dict[tuple[str, str], str] = field(default_factory=dict)

    def describe(self, models: Iterable[_Model]) -> None:
        """Keep what each model does beside its time, for fits to come."""
        known = self.store.work()
        wanted = {each.key: each.trial for model in models for each in (model, model.dense)}
        new = {key: work_of(trial.form, trial.batch) for key, trial in wanted.items() if key not in known}
        if new:
            self.store.describe(new)

    def missing(self, models: Iterable[_Model]) -> dict[tuple[str, str], _Model]:
        """The models, each once, of which nothing is known; another process may have measured some meanwhile."""
        times, failures = self.store.times(self.conditions), self.store.failures(self.conditions)

        def is_known(model: _Model) -> bool:
            timed = model.pair in times and model.dense.pair in times
            return timed or model.key in failures or not self.lost.keys().isdisjoint((model.pair, model.dense.pair))

        return {model.pair: model for model in models if not is_known(model)}

    def race(self, reference: _Model, forms: Sequence[_Model]) -> None:
        """Time ``forms`` and keep what came out; where the process is lost, find out by whom."""
        names = {f"{index}: {model.trial}": model for index, model in enumerate([reference, *forms])}
        try:
            result = self._raced(names)
        except KronexportError as error:
            if type(error) is not KronexportError:  # the user's to mend, whatever form is timed
                raise
            self._after_loss(reference, forms, str(error))
            return
        times = [_stored(names[name], raced) for name, raced in result.raced.items()]
        self.store.keep(self.conditions, times, {names[name].key: why for name, why in result.failed.items()})

    def found(self, models: Mapping[Trial, _Model], missing: Container[tuple[str, str]]) -> FormTimes:
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

    def _raced(self, models: Mapping[str, _Model]) -> RaceResult:
        trials = [model.trial for model in models.values()]
        setting = Setting(self.profile.backend, self.conditions.threads, trials[0].input, machine=self.machine)
        with tempfile.TemporaryDirectory(prefix="kronexport-forms-") as folder:
            paths = {name: Path(folder, f"{index}.onnx") for index, name in enumerate(models)}
            for trial, path in zip(trials, paths.values(), strict=True):
                ir.save(micro_model(trial, self.profile.opset, self.conditions.precision), path)
            return settled_race(paths, setting, self.conditions.timing)

    def _after_loss(self, reference: _Model, forms: Sequence[_Model], reason: str) -> None:
        if not forms:
            self.lost[reference.pair] = reason
            return
        if reference.pair not in self.store.times(self.conditions):
            self.race(reference, [])
        if reference.pair in self.lost:
            return
        if len(forms) == 1:
            self.lost[forms[0].pair] = reason
        else:
            for form in forms:
                self.race(reference, [form])


def _seconds(times: Mapping[tuple[str, str], StoredTime], model: str, reference: str) -> float:
    return times[reference, reference].floor / times[model, reference].speedup


def _stored(model: _Model, raced: Raced) -> StoredTime:
    latency = raced.latency_ms
    return StoredTime(
        model=model.key,
        reference=model.reference,
        speedup=raced.speedup,
        floor=raced.floor_ms / 1000,
        p50=latency.p50 / 1000,
        mean=latency.mean / 1000,
        std=latency.std / 1000,
        n=latency.n,
        rounds=raced.rounds,
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
    )
