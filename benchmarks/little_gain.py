"""Why Kronecker forms of a 64-channel 56x56 layer gain little: MACs, memory traffic, and time against a roofline.

    python -m benchmarks.little_gain --target cpu --threads 1

Structures of every method are looked for at three shares of dense's MACs: those of the least error and those of the
least estimated time, each timed in its forms beside dense. The roofline is this machine's own, measured in the
same run: the multiply-accumulates a second of a dense 256-channel 3x3 conv at 28x28, the bytes a second of a pooling of
an image of the layer's size, and what an operator costs that does next to nothing.
"""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from benchmarks.layers import CONV, conv_layer, conv_site
from benchmarks.table import line
from benchmarks.timed import empty_cache, measured_heading, timing_parser
from kronexport.backends.profile import TargetProfile, load_target
from kronexport.export.replace import site_weights
from kronexport.factorize.scan import ErrorScan
from kronexport.lower.forms import dense_form
from kronexport.lower.opset import IR_VERSIONS
from kronexport.measure.costs import measure_forms
from kronexport.measure.micro import Trial
from kronexport.measure.race import RaceTiming, race_models
from kronexport.measure.setting import Setting
from kronexport.measure.store import MeasurementStore
from kronexport.measure.work import Work, work_of
from kronexport.plan.candidates import Candidate, all_candidates
from kronexport.plan.cost_model import roofline_model
from kronexport.plan.families import FAMILIES
from kronexport.plan.measured import worth_timing
from kronexport.records import FLOAT_BYTES, ConvGeometry, InputSpec, Site, silent

CHANNELS, SIZE = 64, 56
PEAK_CHANNELS, PEAK_SIZE = 256, 28
GEOMETRY = ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1))
SHARES = 0.5, 0.25, 0.125
"""Of dense's MACs; a structure belongs to the least share that it is within."""
CHAIN = 64
"""Operators in the model that tells what one costs."""

COLUMNS = (
    "structure",
    "form",
    "MACs",
    "MB moved",
    "MACs / byte",
    "operators",
    "time",
    "GMAC/s",
    "computing",
    "moving",
    "starting",
    "bound by",
)


@dataclass(frozen=True, slots=True)
class Machine:
    """Multiply-accumulates a second, bytes a second, and seconds an operator, at best."""

    macs: float
    bytes: float
    start: float


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds that a form takes at least: for its MACs, its bytes and its operators."""

    computing: float
    moving: float
    starting: float

    @property
    def tightest(self) -> str:
        return max(("computing", "moving", "starting"), key=lambda name: float(getattr(self, name)))


def bounds_of(work: Work, machine: Machine) -> Bounds:
    """Of one inference on ``machine``."""
    return Bounds(
        computing=float(work.macs / machine.macs),
        moving=bytes_moved(work) / machine.bytes,
        starting=operators(work) * machine.start,
    )


def bytes_moved(work: Work) -> int:
    """What Convs and Transposes read and write."""
    return int(FLOAT_BYTES * work.moved)


def operators(work: Work) -> int:
    """Convs and Transposes."""
    return len(work.convs) + len(work.transposes)


def picked(site: Site, options: Sequence[Candidate]) -> list[Candidate]:
    """Of each method and share the candidates of the least error and of the least time, each once."""
    found: dict[Candidate, None] = {}
    for share, below in zip(SHARES, (*SHARES[1:], 0.0), strict=True):
        for method in FAMILIES:
            within = [
                option
                for option in options
                if option.structure
                and option.structure.method == method
                and below * site.macs < option.macs <= share * site.macs
            ]
            if within:
                found[min(within, key=lambda option: option.squared_error)] = None
                found[min(within, key=lambda option: option.seconds)] = None
    return list(found)


def machine_here(profile: TargetProfile, threads: int, store: MeasurementStore, timing: RaceTiming) -> Machine:
    """The roofline of this machine in the target's runtime."""
    form = dense_form((PEAK_CHANNELS, PEAK_CHANNELS, 3, 3), GEOMETRY, (PEAK_SIZE, PEAK_SIZE))
    peak = Trial(form, 1, has_bias=True)
    seconds = measure_forms([peak], profile, threads, store, progress=silent, timing=timing).seconds[peak]
    shape = 1, CHANNELS, SIZE, SIZE
    large, small = (pooling_seconds(size, profile, threads, timing) for size in (shape, (1, 1, 1, 1)))
    return Machine(form.macs / seconds, 2 * FLOAT_BYTES * math.prod(shape) / (large - small), small)


def pooling_seconds(shape: tuple[int, ...], profile: TargetProfile, threads: int, timing: RaceTiming) -> float:
    """Of one of many poolings behind each other: no runtime merges them, and they hardly compute."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
    tape, value = ir.tape.Tape(), x
    for _ in range(CHAIN):
        value = tape.op("MaxPool", [value], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]})
    value.name, value.type, value.shape = "y", x.type, x.shape
    graph = ir.Graph([x], [value], nodes=tape.nodes, opset_imports={"": profile.opset}, name="poolings")
    with tempfile.TemporaryDirectory(prefix="kronexport-poolings-") as folder:
        path = Path(folder, "poolings.onnx")
        ir.save(ir.Model(graph, ir_version=IR_VERSIONS[profile.opset]), path)
        setting = Setting(profile.backend, threads, InputSpec("x", shape))
        (raced,) = race_models({"poolings": path}, setting, timing).raced.values()
    return raced.floor_ms / 1000 / CHAIN


def row(trial: Trial, seconds: float, dense: Trial, dense_seconds: float, machine: Machine) -> list[str]:
    """One line: ``time`` over dense's, the three bounds as parts of the measured time."""
    work = work_of(trial.form, trial.batch)
    bounds = bounds_of(work, machine)
    ranks = ", ".join(map(str, trial.form.structure.ranks))
    is_dense = trial == dense
    return [
        "dense" if is_dense else f"{trial.form.structure.method}: {trial.form.structure}, ranks {ranks}",
        trial.form.name,
        f"{trial.form.macs / dense.form.macs:.2f}x",
        f"{bytes_moved(work) / 1e6:.1f}",
        f"{trial.form.macs / bytes_moved(work):.1f}",
        str(operators(work)),
        f"{seconds / dense_seconds:.2f}x",
        f"{trial.form.macs / seconds / 1e9:.0f}",
        *(f"{value / seconds:.0%}" for value in (bounds.computing, bounds.moving, bounds.starting)),
        bounds.tightest,
    ]


def verdict(trial: Trial, seconds: float, dense: Trial, dense_seconds: float, machine: Machine) -> str:
    """Why the fastest form gains no more, from its figures."""
    bounds = bounds_of(work_of(trial.form, trial.batch), machine)
    explained = bounds.computing + bounds.moving + bounds.starting
    return (
        f"The fastest, {trial}, has {dense.form.macs / trial.form.macs:.1f} times fewer MACs and takes "
        f"{dense_seconds / seconds:.2f} times less time. At the machine's best its MACs would take "
        f"{bounds.computing / seconds:.0%} of that time, its bytes {bounds.moving / seconds:.0%} and the start of its "
        f"operators {bounds.starting / seconds:.0%}, together {explained / seconds:.0%}; it moves "
        f"{bytes_moved(work_of(trial.form, 1)) / bytes_moved(work_of(dense.form, 1)):.1f} times the bytes of dense."
    )


def timed(
    site: Site, chosen: Sequence[Candidate], profile: TargetProfile, threads: int, timing: RaceTiming
) -> tuple[dict[Trial, float], Machine]:
    """The fastest form of each structure with its seconds, dense first; and the machine in the same run."""
    seconds_of = roofline_model(profile).seconds
    dense = Trial.left_dense(site)
    trials = {
        option: [Trial.of(site, form) for form in worth_timing(option.structure, site, seconds_of)]
        for option in chosen
        if option.structure
    }
    with empty_cache(), MeasurementStore() as store:
        wanted = dict.fromkeys([dense, *(trial for group in trials.values() for trial in group)])
        seconds = measure_forms(list(wanted), profile, threads, store, progress=silent, timing=timing).seconds
        machine = machine_here(profile, threads, store, timing)
    fastest = [min(filter(seconds.__contains__, group), key=lambda trial: seconds[trial]) for group in trials.values()]
    return {trial: seconds[trial] for trial in dict.fromkeys([dense, *fastest])}, machine


def main() -> None:
    """Print the table and what the fastest form is bound by."""
    args = timing_parser(__doc__).parse_args()
    profile = load_target(args.target)
    timing = RaceTiming() if args.seconds is None else RaceTiming(seconds=args.seconds)
    layer = conv_layer(CHANNELS)
    site = conv_site(layer, CHANNELS, SIZE)
    print(measured_heading(f"a 3x3 conv of {CHANNELS} channels, {SIZE}x{SIZE}", COLUMNS, profile, args.threads))
    scan = ErrorScan(site_weights(layer, (CONV,)))
    (options,) = all_candidates([site], scan, roofline_model(profile), silent)
    found, machine = timed(site, picked(site, options), profile, args.threads, timing)
    dense, *others = found
    for trial in (dense, *sorted(others, key=lambda trial: found[trial])):
        print(line(row(trial, found[trial], dense, found[dense], machine)), flush=True)
    best = min(others, key=lambda trial: found[trial])
    print(
        f"\nThe machine: {machine.macs / 1e9:.0f} GMAC/s, {machine.bytes / 1e9:.0f} GB/s on images of this size, "
        f"{machine.start * 1e6:.1f} us an operator.\n\n{verdict(best, found[best], dense, found[dense], machine)}"
    )


if __name__ == "__main__":
    main()
