"""Whether the form that the planner takes for a layer is the fastest: all forms timed again, side by side.

    python -m benchmarks.forms --target cpu --threads 1 [--rows 1 2]

The layers and structures are those that were first looked at by hand. First the forms of all layers are timed as a
build times them, into a store that is empty at the beginning; then all forms of each layer race in one process, none of
them dropping out, the one that was taken as the reference. On several threads a form's speed-up differs by a tenth from
process to process: they race in three there, and the median of its speed-ups counts. The best of fifteen owes part of
its lead to chance even so: where it is another than the chosen, these two race in nine processes more, whose medians
count instead, until the best is one that was raced so.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import onnx_ir as ir

from benchmarks.layers import conv_layer, conv_site
from benchmarks.table import line
from benchmarks.timed import empty_cache, measured_heading, timing_parser
from kronexport.backends.profile import TargetProfile, load_target
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.lower.forms import DENSE, generate_forms
from kronexport.measure.costs import measure_forms
from kronexport.measure.micro import Trial, micro_model
from kronexport.measure.race import RaceTiming, race_models
from kronexport.measure.setting import Setting
from kronexport.measure.store import MeasurementStore
from kronexport.plan.cost_model import roofline_model
from kronexport.plan.measured import worth_timing
from kronexport.records import Site, Structure, silent

ROUNDS = 20
SECONDS = 1.0
"""Of each form, over all rounds."""
PROCESSES = 3
"""On several threads."""
DECIDING = 9
"""Processes in which two forms race that are to be told apart, on several threads."""

COLUMNS = (
    "layer",
    "structure",
    "fewer MACs",
    "forms",
    "chosen",
    "its speed-up",
    "best now",
    "its speed-up",
    "chosen / best",
    "papers' lowering",
    "grouped-2-1",
)
PAPERS = ("folded-1-2", "folded-2-1")
"""Their own forward in either order, of which the better counts."""


@dataclass(frozen=True, slots=True)
class Case:
    """``channels`` in and out, images of ``size`` x ``size``."""

    channels: int
    size: int
    structure: Structure

    def __str__(self) -> str:
        return f"{self.channels}, {self.size}x{self.size}"


def case(channels: int, size: int, splits: tuple[int, int, int, int], kernels: tuple[int, int], rank: int) -> Case:
    """A 3x3 conv by factors (F1, C1, a, a) and (F2, C2, b, b); ``splits`` = (C1, C2, F1, F2), ``kernels`` = (a, b)."""
    (c1, c2, f1, f2), (a, b) = splits, kernels
    return Case(channels, size, gkpd_structure((f1, c1, a, a), (f2, c2, b, b), rank))


CASES = (
    case(64, 56, (8, 8, 8, 8), (1, 3), 2),
    case(64, 56, (8, 8, 8, 8), (3, 1), 2),
    case(64, 56, (1, 64, 16, 4), (1, 3), 4),
    case(128, 28, (4, 32, 4, 32), (1, 3), 1),
    case(128, 28, (1, 128, 16, 8), (1, 3), 4),
    case(256, 14, (8, 32, 8, 32), (1, 3), 1),
    case(256, 14, (16, 16, 16, 16), (1, 3), 2),
    case(512, 7, (8, 64, 8, 64), (1, 3), 1),
    case(512, 7, (64, 8, 512, 1), (1, 3), 2),
)


def site_of(one: Case) -> Site:
    """The layer as a build sees it."""
    return conv_site(conv_layer(one.channels), one.channels, one.size)


def planned_trials(one: Case, profile: TargetProfile) -> list[Trial]:
    """What the planner times of a structure that it looks at, the layer left dense first."""
    site = site_of(one)
    trials = [Trial.of(site, form) for form in worth_timing(one.structure, site, roofline_model(profile).seconds)]
    return [trials[0].dense, *trials]


def all_trials(one: Case) -> dict[str, Trial]:
    """Every form by its name, dense first."""
    site = site_of(one)
    forms = generate_forms(one.structure, site.geometry, site.input_size)
    return {form.name: Trial.of(site, form) for form in forms}


def raced_again(
    trials: Mapping[str, Trial], chosen: str, profile: TargetProfile, threads: int, seconds: float
) -> dict[str, float]:
    """Speed-ups of all over ``chosen``, as the module says."""
    timing = RaceTiming(seconds=seconds, rounds=ROUNDS, drop_after=ROUNDS)
    setting = Setting(profile.backend, threads, trials[chosen].input)
    with tempfile.TemporaryDirectory(prefix="kronexport-forms-") as folder:
        paths = {name: Path(folder, f"{index}.onnx") for index, name in enumerate(trials)}
        for name, path in paths.items():
            ir.save(micro_model(trials[name], profile.opset), path)

        def medians(names: Iterable[str], processes: int) -> dict[str, float]:
            models = {name: paths[name] for name in (chosen, *names)}
            results = [race_models(models, setting, timing).raced for _ in range(processes)]
            return {name: median(raced[name].speedup for raced in results) for name in models if name in results[0]}

        relative = medians((name for name in paths if name != chosen), PROCESSES if threads > 1 else 1)
        decided = {chosen}
        while threads > 1 and (best := max(relative, key=lambda name: relative[name])) not in decided:
            relative |= medians([best], DECIDING)
            decided.add(best)
    return relative


def row(one: Case, trials: Mapping[str, Trial], chosen: str, relative: Mapping[str, float]) -> list[str]:
    """One line; ``relative`` has speed-ups over the chosen form, the line those over dense."""
    best = max(relative, key=lambda name: relative[name])
    papers = max((name for name in PAPERS if name in relative), key=lambda name: relative[name], default=None)

    def speedup(name: str | None) -> str:
        return "" if name is None or name not in relative else f"{relative[name] / relative[DENSE]:.2f}x"

    macs = trials[DENSE].form.macs
    return [
        str(one),
        f"{one.structure}, rank {one.structure.ranks[0]}",
        f"{macs / min(trial.form.macs for trial in trials.values()):.1f}x",
        str(len(relative)),
        chosen,
        speedup(chosen),
        best,
        speedup(best),
        f"{1 / relative[best]:.2f}",
        "" if papers is None else f"{speedup(papers)} ({papers})",
        speedup("grouped-2-1"),
    ]


def chosen_forms(cases: Sequence[Case], profile: TargetProfile, threads: int, timing: RaceTiming) -> list[str]:
    """The fastest form of each case by the measurement that a build makes."""
    trials = [planned_trials(one, profile) for one in cases]
    with empty_cache(), MeasurementStore() as store:
        wanted = [trial for layer in trials for trial in layer]
        seconds = measure_forms(wanted, profile, threads, store, progress=silent, timing=timing).seconds
    fastest = [min(filter(seconds.__contains__, layer), key=lambda trial: seconds[trial]) for layer in trials]
    return [trial.form.name for trial in fastest]


def main() -> None:
    """Print the table, row by row, and the worst ratio."""
    parser = timing_parser(__doc__)
    numbers = range(1, len(CASES) + 1)
    parser.add_argument(
        "--rows", type=int, nargs="+", choices=numbers, default=numbers, help="of the table; default: all"
    )
    args = parser.parse_args()
    profile = load_target(args.target)
    timing = RaceTiming() if args.seconds is None else RaceTiming(seconds=args.seconds)
    print(measured_heading("a 3x3 conv, its BatchNorm and Relu", COLUMNS, profile, args.threads), flush=True)
    worst, cases = 1.0, [CASES[number - 1] for number in args.rows]
    for one, chosen in zip(cases, chosen_forms(cases, profile, args.threads, timing), strict=True):
        trials = all_trials(one)
        relative = raced_again(trials, chosen, profile, args.threads, args.seconds or SECONDS)
        worst = min(worst, 1 / max(relative.values()))
        print(line(row(one, trials, chosen, relative)), flush=True)
    print(f"\nThe least chosen / best: {worst:.2f}")


if __name__ == "__main__":
    main()
