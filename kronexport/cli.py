"""The command ``kronexport``. Results go to stdout, progress and warnings to stderr; exit codes are in errors.py.

Commands load what they need when they run, so that ``--help`` answers at once.
"""

import dataclasses
import json
import logging
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kronexport import __version__, options
from kronexport.errors import KronexportError, Terminated, UserInputError, as_failure
from kronexport.files import stdout_to_stderr
from kronexport.subcommands import cache_app, farm_app, print_json_or, targets_app

if TYPE_CHECKING:
    from kronexport.config import BuildConfig
    from kronexport.pipeline import DryRun

app = typer.Typer(
    name="kronexport",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables leave 20 of 80 columns for what an option does, and [user@] is markup to it
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(targets_app, name="targets")
app.add_typer(cache_app, name="cache")
app.add_typer(farm_app, name="farm")

_INTERRUPTED, _TERMINATED = 130, 143
"""Exit codes of Ctrl-C and of SIGTERM, which ``timeout`` and systems send: both clean up."""

_AFTER_A_STOP = "nothing half-written was left; run the same command again, a build with --resume"


def _show_version(asked: bool) -> None:  # noqa: FBT001  how typer calls it
    if asked:
        typer.echo(f"kronexport {__version__}")
        raise typer.Exit


@app.callback()
def program(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Factorize a trained CNN's convolutions into Kronecker products and ship it as plain ONNX, measured."""


@app.command()
def build(
    model: options.Model = None,
    weights: options.Weights = None,
    input_: options.Input = None,
    calibration: Annotated[str | None, typer.Option(help=".npy, .npz, folder of images or mod:function")] = None,
    mean: Annotated[str | None, typer.Option(help="Of a folder of images: 0.485,0.456,0.406")] = None,
    std: Annotated[str | None, typer.Option(help="Of a folder of images: 0.229,0.224,0.225")] = None,
    evaluate: Annotated[str | None, typer.Option(help="mod:function, called with a predictor; one number.")] = None,
    recover: options.Recover = None,
    epochs: options.Epochs = None,
    target: options.Target = None,
    goal: options.Goal = None,
    plan: Annotated[
        Path | None, typer.Option(help="plan.toml: what becomes of each layer, instead of what the goals ask for.")
    ] = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    precision: options.Precision = None,
    int8_ranges: Annotated[str | None, typer.Option(help="minmax, entropy or percentile; default: minmax")] = None,
    dynamic_batch: Annotated[
        str | None, typer.Option(help="MIN:OPT:MAX samples at once; default: the batch of --input alone.")
    ] = None,
    threads: options.Threads = None,
    time_budget: options.TimeBudget = None,
    device: options.Device = None,
    device_python: options.DevicePython = None,
    farm: options.Farm = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; default: kronexport-out/")] = None,
    config: options.Config = None,
    set_: options.Set = None,
    *,
    allow_unmeasured: Annotated[bool, typer.Option(help="Accept goals that cannot be measured here.")] = False,
    allow_fallback: Annotated[
        bool, typer.Option(help="Accept nodes that the runtime computes in another precision; the report names them.")
    ] = False,
    resume: Annotated[
        bool, typer.Option(help="Go on with the plan and the training of an earlier run of the same command.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Survey and plan only; no output is written.")] = False,
    as_json: options.Json = False,
) -> None:
    """Build MODEL for each target: factorize, lower, compile, verify, measure and pack it."""
    flags = {
        "model": model,
        "weights": weights,
        "input": input_,
        "calibration": calibration,
        "mean": _numbers(mean, "--mean"),
        "std": _numbers(std, "--std"),
        "evaluate": evaluate,
        "recover": recover,
        "epochs": epochs,
        "target": target,
        "goal": goal,
        "plan": plan,
        "include": include,
        "exclude": exclude,
        "precision": precision,
        "int8_ranges": int8_ranges,
        "dynamic_batch": dynamic_batch,
        "threads": threads,
        "time_budget": time_budget,
        "device": device,
        "device_python": device_python,
        "farm": farm,
        "out": out,
        "allow_unmeasured": allow_unmeasured or None,
        "allow_fallback": allow_fallback or None,
        "resume": resume or None,
    }
    resolved = _resolved(config, flags, set_)
    from kronexport import pipeline, terminal, terminal_progress  # noqa: PLC0415  loads torch

    # what a user's factory or evaluator prints must not mix with the results on stdout
    with stdout_to_stderr(), terminal_progress.progress() as progress:
        if dry_run:
            plans = pipeline.dry_run(resolved, progress)
        else:
            outcome = pipeline.run(resolved, progress)
    if dry_run:
        _print_plan(plans, as_json)
        return
    from kronexport.ship.report_json import report_json_text  # noqa: PLC0415  loads pydantic

    if as_json:
        typer.echo(report_json_text(outcome.report), nl=False)
    else:
        terminal.print_report(outcome.report)
        typer.echo(f"report: {outcome.output.report_html}")
    if outcome.failure is not None:
        raise outcome.failure


@app.command()
def plan(
    model: options.Model = None,
    weights: options.Weights = None,
    input_: options.Input = None,
    target: options.Target = None,
    goal: options.Goal = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    precision: options.Precision = None,
    threads: options.Threads = None,
    time_budget: options.TimeBudget = None,
    device: options.Device = None,
    device_python: options.DevicePython = None,
    farm: options.Farm = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the plan to this file, for build --plan; one target at a time.")
    ] = None,
    config: options.Config = None,
    set_: options.Set = None,
    *,
    as_json: options.Json = False,
) -> None:
    """Survey MODEL and plan it for each target: structure, rank and lowering of every site."""
    flags = {
        "model": model,
        "weights": weights,
        "input": input_,
        "target": target,
        "goal": goal,
        "include": include,
        "exclude": exclude,
        "precision": precision,
        "threads": threads,
        "time_budget": time_budget,
        "device": device,
        "device_python": device_python,
        "farm": farm,
    }
    resolved = _resolved(config, flags, set_)
    from kronexport import pipeline, terminal_progress  # noqa: PLC0415  loads torch

    with stdout_to_stderr(), terminal_progress.progress() as progress:
        found = pipeline.dry_run(resolved, progress, out)
    _print_plan(found, as_json)


@app.command()
def bench(
    bundle: Annotated[Path, typer.Argument(help="Folder of one target in an output.")],
    against: Annotated[
        Path | None, typer.Option(help="ONNX to compare with; default: the build's own dense network.")
    ] = None,
    threads: options.BundleThreads = None,
    seconds: Annotated[float, typer.Option(help="Timed seconds for each network.")] = 5.0,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds.")] = 20,
    farm: options.Farm = None,
    *,
    as_json: options.Json = False,
) -> None:
    """Time a bundle again, interleaved with its dense network."""
    from kronexport import terminal  # noqa: PLC0415  loads rich
    from kronexport.farm.access import boards_at  # noqa: PLC0415  loads numpy, and dask where there is a farm
    from kronexport.measure.setting import Timing  # noqa: PLC0415  loads numpy
    from kronexport.ship.rebench import bench_bundle  # noqa: PLC0415  loads numpy

    with boards_at(farm) as machine_of:
        result = bench_bundle(
            bundle, against=against, threads=threads, timing=Timing(seconds, rounds), elsewhere=machine_of
        )
    baseline = "dense" if against is None else str(against)
    print_json_or(as_json, dataclasses.asdict(result), lambda: terminal.print_bench(result, baseline))


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of one target in an output.")],
    *,
    as_json: options.Json = False,
) -> None:
    """Check a bundle: hashes, then manifest, then fit to this machine, then its golden outputs."""
    from kronexport.ship.bundle import verify_golden  # noqa: PLC0415  loads numpy

    rel_l2 = verify_golden(bundle)
    print_json_or(
        as_json,
        {"bundle": str(bundle), "rel_l2": rel_l2, "passed": True},
        lambda: typer.echo(f"{bundle}: intact, fits this machine, golden outputs agree (relative L2 {rel_l2:.1e})"),
    )


@app.command()
def compare(
    builds: Annotated[
        list[Path], typer.Argument(help="Output folders, report.json files, or bundles in an output.", metavar="BUILD…")
    ],
    *,
    as_json: options.Json = False,
) -> None:
    """Set builds side by side, network and layers, and say which figures are not comparable."""
    from kronexport import terminal_compare  # noqa: PLC0415  loads rich
    from kronexport.ship.compare import compare as compare_builds  # noqa: PLC0415  loads pydantic
    from kronexport.ship.compare import comparison_to_json  # noqa: PLC0415  loads pydantic

    found = compare_builds(builds)
    print_json_or(as_json, comparison_to_json(found), lambda: terminal_compare.print_comparison(found))


@app.command()
def report(
    out: Annotated[Path, typer.Argument(help="Output folder of a build.")], *, as_json: options.Json = False
) -> None:
    """Write report.html again from report.json and print the figures."""
    from kronexport import terminal  # noqa: PLC0415  loads rich
    from kronexport.ship.report_html import write_report_html  # noqa: PLC0415  loads jinja2
    from kronexport.ship.report_json import read_report_json, report_to_json  # noqa: PLC0415  loads pydantic

    content = read_report_json(out / "report.json")
    write_report_html(content, out / "report.html")
    print_json_or(as_json, report_to_json(content), lambda: terminal.print_report(content))


@app.command()
def doctor(*, as_json: options.Json = False) -> None:
    """What is installed here, what is missing, and the command that mends it; changes nothing."""
    from kronexport import terminal  # noqa: PLC0415  loads rich
    from kronexport.backends.doctor import diagnose  # noqa: PLC0415  loads the runtimes

    findings = diagnose()
    print_json_or(as_json, [dataclasses.asdict(f) for f in findings], lambda: terminal.print_findings(findings))


@app.command()
def schema() -> None:
    """The JSON schema of report.json."""
    from kronexport.ship.report_json import report_schema  # noqa: PLC0415  loads pydantic

    typer.echo(json.dumps(report_schema(), indent=2))


def main() -> None:
    """Entry point: every error on purpose ends in its own exit code, with its message on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, terminate)
    sys.exit(run(sys.argv[1:]))


def terminate(_number: int, _frame: object) -> None:
    """The handler of SIGTERM."""
    raise Terminated


def run(arguments: list[str]) -> int:
    """Run one command line; returns its exit code (errors.py)."""
    try:
        app(arguments)
    except (KronexportError, OSError) as error:
        failure = as_failure(error)
        return _fail(str(failure), failure.exit_code)
    except SystemExit as stop:  # how typer ends: 0, 2 for a wrong command line, 130 for Ctrl-C
        code = stop.code if isinstance(stop.code, int) else 0
        return _fail(f"interrupted; {_AFTER_A_STOP}", code) if code == _INTERRUPTED else code
    except Terminated:
        return _fail(f"terminated; {_AFTER_A_STOP}", _TERMINATED)
    return 0


def _fail(message: str, code: int) -> int:
    typer.echo(f"error: {message}", err=True)
    return code


def _resolved(file: Path | None, flags: Mapping[str, Any], overrides: list[str] | None) -> "BuildConfig":
    """The configuration, refused if its text alone says that it cannot be built: that takes no torch."""
    from kronexport.asked import read_asked  # noqa: PLC0415  loads pydantic
    from kronexport.config import load_config  # noqa: PLC0415  loads pydantic

    config = load_config(file, flags, overrides or [])
    read_asked(config)
    return config


def _numbers(text: str | None, flag: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UserInputError(f"{flag} {text!r}: expected numbers with commas, such as 0.485,0.456,0.406") from error


def _print_plan(found: "DryRun", as_json: bool) -> None:  # noqa: FBT001  the flag itself
    from kronexport import terminal  # noqa: PLC0415  loads rich

    print_json_or(as_json, terminal.plan_json(found), lambda: terminal.print_plan(found))
