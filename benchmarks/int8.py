"""Four networks side by side: dense and factorized, in float and in int8, each planned for its own precision.

    python -m benchmarks.int8 --target cpu --threads 1 [--model sample:resnet18] [--goal "macs<=0.25"]
    python -m benchmarks.int8 --accuracy --target cpu [--model sample:resnet20] [--goal "macs<=0.5"]
        [--weights FILE --input SHAPE --calibration IMAGES --evaluate mod:function]

The first times networks of noise, all interleaved in one process, then the two in int8 once more by themselves. The
second builds the network twice, says what the shipped engines score, and times the four side by side.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.planning import network_reduction
from benchmarks.table import line
from benchmarks.timed import build_config, measured_heading, speedup_text, timing_parser
from kronexport.backends.profile import TargetProfile, load_target
from kronexport.instruments import instruments_for
from kronexport.measure.latency import bench_models
from kronexport.measure.setting import Setting, Timing
from kronexport.pipeline import dry_run, run, survey_stage
from kronexport.plan.choose import dense_plan
from kronexport.plan.float_steps import with_float_steps
from kronexport.records import Precision, silent
from kronexport.ship.output import OutputFolder

TIMING = Timing(seconds=5.0, rounds=20, warmup_seconds=1.0)
PRECISIONS: tuple[Precision, Precision] = ("fp32", "int8")
COLUMNS = "network", "fewer MACs", "over dense fp32 (95 %)", "over dense int8 (95 %)", "Convs in float"
SCORES = "network", "params", "MACs", "bytes", "score", "over dense fp32 (95 %)"
OF_THE_MODEL = "weights", "input", "calibration", "evaluate"
"""Options of ``kronexport build`` that the second command passes on."""


def main() -> None:
    """Print one of the two tables."""
    parser = timing_parser(__doc__)
    parser.add_argument("--model", help="MODEL, as of kronexport build")
    parser.add_argument("--goal", action="append", help="as of kronexport build")
    parser.add_argument("--accuracy", action="store_true", help="score builds instead of timing networks of noise")
    for name in OF_THE_MODEL:
        parser.add_argument(f"--{name}", help="as of kronexport build")
    args = parser.parse_args()
    profile = load_target(args.target)
    if args.accuracy:
        scores(args, profile)
    else:
        times(args, profile)


def times(args: argparse.Namespace, profile: TargetProfile) -> None:
    """Plan for each precision, write the four networks, time them."""
    model, goals = args.model or "sample:resnet18", tuple(args.goal or ("macs<=0.25",))
    print(measured_heading(f"{model}, goals {', '.join(goals)}", COLUMNS, profile, args.threads), flush=True)
    with tempfile.TemporaryDirectory(prefix="kronexport-int8-") as folder:
        paths: dict[str, Path] = {}
        rows: dict[str, list[str]] = {}
        for precision in PRECISIONS:
            config = build_config(model, args, goal=goals, precision=precision)
            found = dry_run(config)
            instruments = instruments_for(config, found.project)(profile, silent)
            assert instruments is not None  # noqa: S101  both targets run here
            plan, rehearsal = found.plans[0], instruments.rehearsal
            survey = found.project.survey
            dense = dense_plan(survey, profile)
            if precision == "int8":  # the rival is as fast as it can be too
                dense = with_float_steps(dense, survey.sites, instruments.clock, rehearsal)
            for name, one in (("dense", dense), ("Kronecker", plan)):
                paths[f"{name} {precision}"] = rehearsal.written(one, Path(folder))
                fewer = network_reduction(survey, one, "macs")
                kept = sum(map(len, one.float_steps.values()))
                rows[f"{name} {precision}"] = [f"{fewer:.2f}x", str(kept) if precision == "int8" else "all"]
            setting = Setting(profile.backend, args.threads, found.project.input)
        over_float = bench_models(paths, setting, TIMING).speedups
        narrow = {name: paths[name] for name in ("dense int8", "Kronecker int8")}
        over_int8 = bench_models(narrow, setting, TIMING).speedups
        for name, (fewer_macs, kept_float) in rows.items():
            cells = [speedup_text(found[name]) if name in found else "" for found in (over_float, over_int8)]
            print(line([name, fewer_macs, *cells, kept_float]))


def scores(args: argparse.Namespace, profile: TargetProfile) -> None:
    """Build in each precision, print what the reports say."""
    model, goals = args.model or "sample:resnet20", tuple(args.goal or ("macs<=0.5",))
    print(measured_heading(f"{model}, goals {', '.join(goals)}", SCORES, profile, args.threads), flush=True)
    options = {name: getattr(args, name) for name in OF_THE_MODEL}
    with tempfile.TemporaryDirectory(prefix="kronexport-int8-") as folder:
        paths: dict[str, Path] = {}
        rows: dict[str, list[str]] = {}
        for precision in PRECISIONS:
            out = OutputFolder(Path(folder, precision))
            config = build_config(model, args, goal=goals, precision=precision, out=out.root, **options)
            (target,) = run(config).report.targets.values()
            made = {"dense": out.target_dense_onnx(profile.name), "Kronecker": out.bundle(profile.name) / "model.onnx"}
            for name, figures in (("dense", target.dense), ("Kronecker", target.compressed)):
                ratios = [f"{getattr(figures, key) / getattr(target.dense, key):.3f}x" for key in ("params", "macs")]
                paths[f"{name} {precision}"] = made[name]
                rows[f"{name} {precision}"] = [*ratios, f"{figures.bytes:,}", f"{figures.accuracy}"]
        project, _ = survey_stage(config)
        setting = Setting(profile.backend, args.threads, project.input)
        speedups = bench_models(paths, setting, TIMING).speedups
        for name, cells in rows.items():
            print(line([name, *cells, speedup_text(speedups[name]) if name in speedups else ""]))


if __name__ == "__main__":
    main()
