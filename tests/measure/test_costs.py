"""Times of forms: measured once, comparable over batches, and no form keeps the others from being timed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir
import pytest

from kronexport.backends.profile import TargetProfile, load_target
from kronexport.errors import KronexportError, MissingRuntimeError
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.lower.forms import generate_forms
from kronexport.measure import batches, costs
from kronexport.measure.batches import BATCH
from kronexport.measure.costs import FormTimes, measure_forms, measured_costs
from kronexport.measure.micro import Trial, micro_key
from kronexport.measure.race import Raced, RaceResult, RaceTiming
from kronexport.measure.setting import Setting
from kronexport.measure.store import MeasurementStore, conditions_of
from kronexport.measure.work import work_of
from kronexport.records import ConvGeometry, LatencyStats, Pair

SHORT = RaceTiming(seconds=0.01, rounds=2, warmup_seconds=0.0, drop_after=2)
CPU, OPENVINO = load_target("cpu"), load_target("openvino")


def layer(size: Pair, *ranks: int) -> list[Trial]:
    """Dense first, then the four forms of one placement at each rank, of a conv 6 to 8 channels at ``size``."""
    structures = [gkpd_structure((2, 3, 1, 1), (4, 2, 3, 3), rank) for rank in ranks]
    forms = [form for each in structures for form in generate_forms(each, ConvGeometry((3, 3)), size)[1:5]]
    trials = [Trial(form, 1, has_bias=True, activation="Relu") for form in forms]
    return [trials[0].dense, *trials]


SMALL, LARGE = layer((6, 5), 1, 2), layer((8, 7), 1, 2, 3, 4)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MeasurementStore]:
    with MeasurementStore(tmp_path / "times.sqlite") as opened:
        yield opened


def measured(
    trials: list[Trial],
    store: MeasurementStore,
    profile: TargetProfile = CPU,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> FormTimes:
    return measure_forms(trials, profile, 1, store, progress=progress, timing=SHORT)


@dataclass
class Races:
    """A double of ``settled_race``: the n-th race and the m-th of its models have a speed-up of n + m.

    ``floors_ms``: of the reference in each race. ``on_race`` is called with the number of the race and its models.
    """

    floors_ms: list[float] = field(default_factory=list)
    on_race: Callable[[int, list[str]], None] = lambda *_: None
    batches: list[list[str]] = field(default_factory=list)

    def __call__(self, models: Mapping[str, Path], _setting: Setting, _timing: RaceTiming) -> RaceResult:
        assert all(path.is_file() for path in models.values())
        self.on_race(len(self.batches), list(models))
        number = len(self.batches)
        self.batches.append(list(models))
        floor = self.floors_ms[number] if self.floors_ms else 8.0
        stats = LatencyStats(10, floor, floor, 0.0, floor, floor, floor, floor)
        speedups = [1.0, *(float(number + index) for index in range(1, len(models)))]
        times = [Raced(stats, floor / speedup, 2, speedup) for speedup in speedups]
        return RaceResult(dict(zip(models, times, strict=True)), {})


@pytest.fixture
def races(monkeypatch: pytest.MonkeyPatch) -> Races:
    double = Races()
    monkeypatch.setattr(costs, "settled_race", double)
    return double


# --- on the runtimes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [CPU, OPENVINO], ids=lambda profile: profile.name)
def test_every_form_is_timed_once(
    profile: TargetProfile, store: MeasurementStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for again, no process is started; other threads are other conditions."""
    first = measured(SMALL, store, profile)
    assert list(first.seconds) == SMALL
    assert min(first.seconds.values()) > 0
    assert first.set_aside == {}

    def no_race(*_: object) -> None:
        pytest.fail("measured again")

    monkeypatch.setattr(costs, "settled_race", no_race)
    assert measured(SMALL, store, profile) == first
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        measure_forms(SMALL[:1], profile, 2, store, progress=lambda *_: None, timing=SHORT)


@pytest.mark.parametrize("profile", [CPU, OPENVINO], ids=lambda profile: profile.name)
def test_a_form_that_does_not_compile_is_set_aside_with_its_reason(
    profile: TargetProfile, store: MeasurementStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go on, and it is not tried again."""
    save = ir.save

    def save_or_spoil(model: ir.Model, path: Path) -> None:
        save(model, path)
        if path.name == "2.onnx":  # the dense one is 0
            path.write_bytes(b"garbage")

    monkeypatch.setattr(ir, "save", save_or_spoil)
    found = measured(SMALL, store, profile)
    assert list(found.set_aside) == [SMALL[2]]
    assert "cannot load this model" in found.set_aside[SMALL[2]]
    assert list(found.seconds) == [trial for trial in SMALL if trial != SMALL[2]]
    monkeypatch.setattr(costs, "settled_race", lambda *_: pytest.fail("measured again"))
    assert measured(SMALL, store, profile) == found


# --- batches --------------------------------------------------------------------------------------------------


def test_each_batch_is_of_one_layer_and_has_its_dense_model(store: MeasurementStore, races: Races) -> None:
    """At most BATCH are open at once, the largest layer takes two; a model that comes twice is timed once."""
    told: list[tuple[str, int, int]] = []
    measured([*SMALL, *LARGE, *SMALL], store, progress=lambda *step: told.append(step))
    small, large = len({*SMALL}), len({*LARGE})
    assert large > BATCH
    assert [len(batch) for batch in races.batches] == [small, BATCH, large - BATCH + 1]
    assert all(batch[0].endswith(", dense") for batch in races.batches)
    assert sum("dense" in name for batch in races.batches for name in batch) == 3
    assert [done for _, done, _ in told] == [0, small, small + BATCH, small + large]
    assert {(stage, total) for stage, _, total in told} == {("measure", small + large)}


def test_large_images_are_open_a_few_at_a_time(
    store: MeasurementStore, races: Races, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many forms as fit into the memory that is allowed, one if none does; all are timed."""
    sizes = [4 * work_of(trial.form, 1).moved for trial in SMALL[1:]]
    monkeypatch.setattr(batches, "OPEN_BYTES", sizes[0] + sizes[1])
    assert len(measured(SMALL, store).seconds) == len({*SMALL})
    assert len(races.batches[0]) == 3
    races.batches.clear()
    monkeypatch.setattr(batches, "OPEN_BYTES", 1)
    measured(LARGE, store)
    assert {len(batch) for batch in races.batches} == {2}


def test_times_of_all_batches_are_ratios_to_the_dense_time_of_the_first(store: MeasurementStore, races: Races) -> None:
    """The second batch of the large layer ran on a machine half as fast; its ratios stand."""
    races.floors_ms = [8.0, 16.0]
    found = measured(LARGE, store)
    second = LARGE[BATCH:]
    speedups = [1.0, *map(float, range(1, BATCH)), *(1.0 + index for index in range(1, len(second) + 1))]
    assert list(found.seconds.values()) == pytest.approx([0.008 / speedup for speedup in speedups], rel=1e-12)


def test_forms_alone_bring_their_dense_model_with_them(store: MeasurementStore, races: Races) -> None:
    """It is timed, but only what was asked for comes back."""
    assert list(measured(SMALL[1:3], store).seconds) == SMALL[1:3]
    assert list(measured(SMALL[:1], store).seconds) == SMALL[:1]
    assert [len(batch) for batch in races.batches] == [3]


def test_a_dense_model_can_be_timed_alone(store: MeasurementStore, races: Races) -> None:
    assert measured(SMALL[:1], store).seconds == {SMALL[0]: 0.008}
    assert [len(batch) for batch in races.batches] == [1]


def test_an_interrupted_run_loses_one_batch_at_most(store: MeasurementStore, races: Races) -> None:
    def interrupt(number: int, _models: list[str]) -> None:
        if number == 1:
            raise KeyboardInterrupt

    races.on_race = interrupt
    with pytest.raises(KeyboardInterrupt):
        measured(LARGE, store)
    known = store.times(conditions_of("onnxruntime", 1, "fp32", SHORT))
    assert {model for model, _ in known} == {micro_key(trial, CPU.opset) for trial in LARGE[:BATCH]}
    races.on_race = lambda *_: None
    measured(LARGE, store)
    assert len(races.batches[1]) == len(LARGE) - BATCH + 1


# --- processes that do not come back --------------------------------------------------------------------------


def lose(*culprits: Trial) -> Callable[[int, list[str]], None]:
    """Every race with one of ``culprits`` in it is lost."""

    def race(_number: int, models: list[str]) -> None:
        if any(str(culprit) in name for culprit in culprits for name in models):
            raise KronexportError("ended by SIGSEGV")

    return race


def test_a_form_that_takes_the_process_with_it_is_found_and_set_aside(store: MeasurementStore, races: Races) -> None:
    races.on_race = lose(SMALL[2])
    found = measured(SMALL, store)
    assert found.set_aside == {SMALL[2]: "ended by SIGSEGV"}
    assert list(found.seconds) == [trial for trial in SMALL if trial != SMALL[2]]


def test_such_a_form_alone_leaves_the_dense_time(store: MeasurementStore, races: Races) -> None:
    races.on_race = lose(SMALL[2])
    found = measured([SMALL[0], SMALL[2]], store)
    assert (list(found.seconds), list(found.set_aside)) == ([SMALL[0]], [SMALL[2]])


def test_it_is_tried_again_in_the_next_run(store: MeasurementStore, races: Races) -> None:
    """Memory may have run out that once."""
    races.on_race = lose(SMALL[2])
    measured(SMALL, store)
    races.on_race = lambda *_: None
    assert list(measured(SMALL, store).seconds) == SMALL


@pytest.mark.parametrize(
    "words",
    [
        "Failed to allocate memory",
        "pthread_create failed, error code: 11 error msg: Resource temporarily unavailable",
        "[Errno 24] Too many open files",
        "can't start new thread",
        "Failed to create thread pool",
    ],
)
def test_a_form_that_ran_out_of_something_is_set_aside_for_this_run_alone(
    store: MeasurementStore, races: Races, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    """The runtime said so itself, and the process lived on: another time there may be enough."""

    def short_of_memory(models: Mapping[str, Path], setting: Setting, timing: RaceTiming) -> RaceResult:
        name = list(models)[2]
        found = races(models, setting, timing)
        raced = {key: value for key, value in found.raced.items() if key != name}
        return RaceResult(raced, {name: f"the runtime cannot run this model: {words}"})

    monkeypatch.setattr(costs, "settled_race", short_of_memory)
    found = measured(SMALL, store)
    assert list(found.set_aside) == [SMALL[2]]
    assert words in found.set_aside[SMALL[2]]
    assert len(races.batches) == 1
    monkeypatch.setattr(costs, "settled_race", races)
    assert list(measured(SMALL, store).seconds) == SMALL


def test_a_layer_whose_dense_model_does_not_run_is_set_aside_whole(store: MeasurementStore, races: Races) -> None:
    """After two processes, not one for each form; other layers go on."""
    attempts: list[int] = []

    def race(_number: int, models: list[str]) -> None:
        if not races.batches:
            attempts.append(len(models))
            if len(attempts) <= 2:
                raise KronexportError("ended by SIGKILL")

    races.on_race = race
    found = measured([*SMALL, *LARGE[:3]], store)
    assert attempts == [len(SMALL), 1, 3]
    assert found.set_aside == dict.fromkeys(SMALL, "ended by SIGKILL")
    assert list(found.seconds) == LARGE[:3]


def test_what_the_user_has_to_mend_is_not_set_aside(store: MeasurementStore, races: Races) -> None:
    def race(_number: int, _models: list[str]) -> None:
        raise MissingRuntimeError("not installed")

    races.on_race = race
    with pytest.raises(MissingRuntimeError):
        measured(SMALL, store)


# --- what the store tells a cost model ------------------------------------------------------------------------


def test_what_was_measured_is_known_without_its_forms(store: MeasurementStore, races: Races) -> None:
    """By layer, with what was done and the same seconds; dense ones are among them."""
    found = measured([*SMALL, *LARGE[1:3]], store)
    costs = measured_costs(CPU, 1, store, SHORT)
    assert len(races.batches) == 2
    assert {(cost.layer, cost.work, cost.seconds) for cost in costs} >= {
        (micro_key(trial.dense, CPU.opset), work_of(trial.form, 1), seconds) for trial, seconds in found.seconds.items()
    }
    assert len(costs) == len(SMALL) + 3
    assert [cost.work for cost in costs if cost.layer == micro_key(LARGE[0], CPU.opset)].count(
        work_of(LARGE[0].form, 1)
    ) == 1


def test_what_was_set_aside_costs_nothing(store: MeasurementStore, races: Races) -> None:
    races.on_race = lose(SMALL[2])
    measured(SMALL, store)
    assert work_of(SMALL[2].form, 1) not in [cost.work for cost in measured_costs(CPU, 1, store, SHORT)]


def test_shortened_races_are_not_taken_for_usual_ones(store: MeasurementStore, races: Races) -> None:
    """Neither as times nor for the cost model."""
    measured(SMALL, store)
    assert measured_costs(CPU, 1, store) == []
    measure_forms(SMALL, CPU, 1, store, progress=lambda *_: None)
    assert len(races.batches) == 2
    assert len(measured_costs(CPU, 1, store)) == len(SMALL)


# --- when time is up ------------------------------------------------------------------------------------------


def test_what_is_not_reached_in_time_is_left(store: MeasurementStore, races: Races) -> None:
    """The time is asked for before each batch; what is known counts afterwards too."""
    found = measure_forms(
        [*SMALL, *LARGE[:3]],
        CPU,
        1,
        store,
        progress=lambda *_: None,
        timing=SHORT,
        time_is_up=lambda: len(races.batches) == 1,
    )
    assert (list(found.seconds), found.set_aside, found.left) == (SMALL, {}, tuple(LARGE[:3]))
    again = measure_forms(SMALL, CPU, 1, store, progress=lambda *_: None, timing=SHORT, time_is_up=lambda: True)
    assert (again.seconds, again.left) == ({trial: found.seconds[trial] for trial in SMALL}, ())
