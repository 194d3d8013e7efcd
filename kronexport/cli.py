"""The command ``kronexport``. Results go to stdout, progress and warnings to stderr; exit codes are in errors.py.

Commands load what they need when they run, so that ``--help`` answers at once.
"""

import dataclasses
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kronexport import __version__
from kronexport.errors import KronexportError, UserInputError, as_failure
from kronexport.files import stdout_to_stderr

if TYPE_CHECKING:
    from kronexport.backends.profile import TargetProfile

app = typer.Typer(
    name="kronexport",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
targets_app = typer.Typer(help="The devices that can be built for.", no_args_is_help=True)
app.add_typer(targets_app, name="targets")
cache_app = typer.Typer(help="What is kept between runs, so that it is computed once.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")

_INTERRUPTED = 130
_GOAL_HELP = "latency, params, macs, size, memory or accuracy_drop, then <=NUMBER[UNIT]; repeat for several."

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Threads = Annotated[int | None, typer.Option(help="Runtime threads; default: the target's.")]


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
    model: Annotated[
        str | None, typer.Argument(help="sample:NAME, pkg.mod:factory or path/file.py:factory.", metavar="MODEL")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="State dict: .safetensors .pt .pth .th .npz")] = None,
    input_: Annotated[str | None, typer.Option("--input", help="[NAME=]1x3x224x224")] = None,
    calibration: Annotated[str | None, typer.Option(help=".npy, .npz, folder of images or mod:function")] = None,
    mean: Annotated[str | None, typer.Option(help="Of a folder of images: 0.485,0.456,0.406")] = None,
    std: Annotated[str | None, typer.Option(help="Of a folder of images: 0.229,0.224,0.225")] = None,
    evaluate: Annotated[str | None, typer.Option(help="mod:function, called with a predictor; one number.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Target or alias; repeat for several.")] = None,
    goal: Annotated[
        list[str] | None,
        typer.Option(help=_GOAL_HELP),
    ] = None,
    include: Annotated[list[str] | None, typer.Option(help="Factorize only layers that match: layer3.*")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Leave sites that match dense: *.conv1")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32")] = None,
    threads: Threads = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; default: kronexport-out/")] = None,
    config: Annotated[Path | None, typer.Option(help="build.toml; keys are the long flag names.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE over the config: measure.seconds=10")
    ] = None,
    *,
    allow_unmeasured: Annotated[bool, typer.Option(help="Accept goals that cannot be measured here.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Survey and plan only; write nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Build MODEL for each target: factorize, lower, compile, verify, measure and pack it."""
    from kronexport.config import load_config  # noqa: PLC0415  loads pydantic

    flags = {
        "model": model,
        "weights": weights,
        "input": input_,
        "calibration": calibration,
        "mean": _numbers(mean, "--mean"),
        "std": _numbers(std, "--std"),
        "evaluate": evaluate,
        "target": target,
        "goal": goal,
        "include": include,
        "exclude": exclude,
        "precision": precision,
        "threads": threads,
        "out": out,
        "allow_unmeasured": allow_unmeasured or None,
    }
    resolved = load_config(config, flags, set_ or [])
    from kronexport import pipeline, terminal  # noqa: PLC0415  loads torch

    # what a user's factory or evaluator prints must not mix with the results on stdout
    with stdout_to_stderr(), terminal.progress() as progress:
        if dry_run:
            plans = pipeline.dry_run(resolved, progress)
        else:
            outcome = pipeline.run(resolved, progress)
    if dry_run:
        _print_json_or(as_json, terminal.plan_json(plans), lambda: terminal.print_plan(plans))
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
def bench(
    bundle: Annotated[Path, typer.Argument(help="Folder of one target in an output.")],
    against: Annotated[
        Path | None, typer.Option(help="ONNX to compare with; default: the build's own dense network.")
    ] = None,
    threads: Threads = None,
    seconds: Annotated[float, typer.Option(help="Timed seconds for each network.")] = 5.0,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds.")] = 20,
    *,
    as_json: JsonFlag = False,
) -> None:
    """Time a bundle again, interleaved with its dense network."""
    from kronexport import terminal  # noqa: PLC0415  loads rich
    from kronexport.measure.setting import Timing  # noqa: PLC0415  loads numpy
    from kronexport.ship.rebench import bench_bundle  # noqa: PLC0415  loads numpy

    result = bench_bundle(bundle, against=against, threads=threads, timing=Timing(seconds, rounds))
    _print_json_or(as_json, dataclasses.asdict(result), lambda: terminal.print_bench(result))


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of one target in an output.")],
    *,
    as_json: JsonFlag = False,
) -> None:
    """Check a bundle: hashes, then manifest, then fit to this machine, then its golden outputs."""
    from kronexport.ship.bundle import verify_golden  # noqa: PLC0415  loads numpy

    rel_l2 = verify_golden(bundle)
    _print_json_or(
        as_json,
        {"bundle": str(bundle), "rel_l2": rel_l2, "passed": True},
        lambda: typer.echo(f"{bundle}: intact, fits this machine, golden outputs agree (relative L2 {rel_l2:.1e})"),
    )


@app.command()
def report(
    out: Annotated[Path, typer.Argument(help="Output folder of a build.")], *, as_json: JsonFlag = False
) -> None:
    """Write report.html again from report.json and print the figures."""
    from kronexport import terminal  # noqa: PLC0415  loads rich
    from kronexport.ship.report_html import write_report_html  # noqa: PLC0415  loads jinja2
    from kronexport.ship.report_json import read_report_json, report_to_json  # noqa: PLC0415  loads pydantic

    content = read_report_json(out / "report.json")
    write_report_html(content, out / "report.html")
    _print_json_or(as_json, report_to_json(content), lambda: terminal.print_report(content))


@targets_app.command("list")
def targets_list(*, as_json: JsonFlag = False) -> None:
    """All targets with their aliases."""
    from kronexport.backends.profile import list_targets  # noqa: PLC0415  loads pydantic

    profiles = list_targets()
    rows = [
        {"name": p.name, "aliases": p.aliases, "backend": p.backend, "description": p.description} for p in profiles
    ]
    _print_json_or(as_json, rows, lambda: _print_targets(profiles))


@targets_app.command("show")
def targets_show(name: Annotated[str, typer.Argument(help="Target or alias.")], *, as_json: JsonFlag = False) -> None:
    """One target with every fact and its source."""
    from kronexport import terminal  # noqa: PLC0415  loads rich
    from kronexport.backends.profile import load_target  # noqa: PLC0415  loads pydantic

    profile = load_target(name)
    data = profile.model_dump(mode="json")
    _print_json_or(as_json, data, lambda: terminal.print_facts(data))


@cache_app.command("info")
def cache_info(*, as_json: JsonFlag = False) -> None:
    """Where the cache is and how much it holds; KRONEXPORT_CACHE sets another folder."""
    from kronexport.cache import cache_use  # noqa: PLC0415  loads platformdirs

    use = cache_use()
    text = f"{use.path}: {use.files} files, {use.bytes:,} bytes"
    _print_json_or(as_json, dataclasses.asdict(use), lambda: typer.echo(text))


@cache_app.command("clean")
def cache_clean(*, as_json: JsonFlag = False) -> None:
    """Remove what kronexport keeps there, and nothing else."""
    from kronexport.cache import clean_cache  # noqa: PLC0415  loads platformdirs

    gone = clean_cache()
    text = f"{gone.path}: removed {gone.files} files, {gone.bytes:,} bytes"
    _print_json_or(as_json, dataclasses.asdict(gone), lambda: typer.echo(text))


@app.command()
def doctor(*, as_json: JsonFlag = False) -> None:
    """What is installed here, what is missing, and the command that mends it; changes nothing."""
    from kronexport import terminal  # noqa: PLC0415  loads rich
    from kronexport.backends.doctor import diagnose  # noqa: PLC0415  loads the runtimes

    findings = diagnose()
    _print_json_or(as_json, [dataclasses.asdict(f) for f in findings], lambda: terminal.print_findings(findings))


@app.command()
def schema() -> None:
    """The JSON schema of report.json."""
    from kronexport.ship.report_json import report_schema  # noqa: PLC0415  loads pydantic

    typer.echo(json.dumps(report_schema(), indent=2))


def main() -> None:
    """Entry point: every error on purpose ends in its own exit code, with its message on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; returns its exit code (errors.py)."""
    try:
        app(arguments)
    except (KronexportError, OSError) as error:
        failure = as_failure(error)
        return _fail(str(failure), failure.exit_code)
    except SystemExit as stop:  # how typer ends: 0, 2 for a wrong command line, 130 for Ctrl-C
        if stop.code == _INTERRUPTED:
            return _fail("interrupted; nothing half-written was left, run the same command again", _INTERRUPTED)
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def _fail(message: str, code: int) -> int:
    typer.echo(f"error: {message}", err=True)
    return code


def _numbers(text: str | None, flag: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UserInputError(f"{flag} {text!r}: expected numbers with commas, such as 0.485,0.456,0.406") from error


def _print_json_or(as_json: bool, data: Any, print_text: Callable[[], None]) -> None:  # noqa: FBT001  the flag itself
    if as_json:
        typer.echo(json.dumps(data, indent=2))
    else:
        print_text()


def _print_targets(profiles: list["TargetProfile"]) -> None:
    for profile in profiles:
        names = ", ".join((profile.name, *profile.aliases))
        typer.echo(f"{names:40} {profile.backend:12} {profile.description}")
