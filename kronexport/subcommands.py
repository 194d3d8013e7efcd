"""``kronexport targets``, ``cache`` and ``farm``, and how every command prints its result."""

import dataclasses
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kronexport import options

if TYPE_CHECKING:
    from kronexport.backends.profile import TargetProfile
    from kronexport.farm.status import BoardStatus

targets_app = typer.Typer(help="The devices that can be built for.", no_args_is_help=True)
cache_app = typer.Typer(help="What is kept between runs, so that it is computed once.", no_args_is_help=True)

farm_app = typer.Typer(help="Boards that a scheduler of dask.distributed shares out.", no_args_is_help=True)


@targets_app.command("list")
def targets_list(*, as_json: options.Json = False) -> None:
    """All targets with their aliases and variants."""
    from kronexport.backends.profile import list_targets  # noqa: PLC0415  loads pydantic

    profiles = list_targets()
    rows = [
        {
            "name": profile.name,
            "aliases": profile.aliases,
            "backend": profile.backend,
            "description": profile.description,
            "variants": list(profile.variants),
        }
        for profile in profiles
    ]
    print_json_or(as_json, rows, lambda: _print_targets(profiles))


@targets_app.command("show")
def targets_show(
    name: Annotated[str, typer.Argument(help="Target or alias.")], *, as_json: options.Json = False
) -> None:
    """One target: every value with its source, and what is unverified of it."""
    from kronexport import terminal  # noqa: PLC0415  loads rich
    from kronexport.backends.profile import load_target  # noqa: PLC0415  loads pydantic

    profile = load_target(name)
    print_json_or(as_json, profile.model_dump(mode="json"), lambda: terminal.print_target(profile))


@cache_app.command("info")
def cache_info(*, as_json: options.Json = False) -> None:
    """Where the cache is and how much it holds; KRONEXPORT_CACHE sets another folder."""
    from kronexport.cache import cache_use  # noqa: PLC0415  loads platformdirs

    use = cache_use()
    text = f"{use.path}: {use.files} files, {use.bytes:,} bytes"
    print_json_or(as_json, dataclasses.asdict(use), lambda: typer.echo(text))


@cache_app.command("clean")
def cache_clean(*, as_json: options.Json = False) -> None:
    """Remove what kronexport keeps there, and nothing else."""
    from kronexport.cache import clean_cache  # noqa: PLC0415  loads platformdirs

    gone = clean_cache()
    text = f"{gone.path}: removed {gone.files} files, {gone.bytes:,} bytes"
    print_json_or(as_json, dataclasses.asdict(gone), lambda: typer.echo(text))


@farm_app.command("worker")
def farm_worker(
    farm: Annotated[str, typer.Option(help="The scheduler: tcp://HOST:8786", metavar="ADDRESS")],
    board: Annotated[str, typer.Option(help="The target that the board is.", metavar="TARGET")],
    device: Annotated[
        str | None, typer.Option(help="The board, ssh://[user@]host[:port]; default: this machine.")
    ] = None,
    device_python: options.DevicePython = None,
) -> None:
    """Serve a farm with one board, one job at a time, until it is interrupted."""
    from kronexport.farm import require_dask  # noqa: PLC0415  only the farm's commands need dask

    require_dask()
    from kronexport.farm.jobs import BoardSpec  # noqa: PLC0415  loads dask
    from kronexport.farm.worker import serve  # noqa: PLC0415  loads dask

    spec = BoardSpec(board, device) if device_python is None else BoardSpec(board, device, device_python)
    serve(farm, spec, tell=lambda text: typer.echo(text, err=True))


@farm_app.command("status")
def farm_status(
    farm: Annotated[str, typer.Option(help="The scheduler: tcp://HOST:8786", metavar="ADDRESS")],
    *,
    as_json: options.Json = False,
) -> None:
    """The farm's boards, and what became of each."""
    from kronexport.farm import require_dask  # noqa: PLC0415  only the farm's commands need dask

    require_dask()
    from kronexport.farm.status import farm_status as status_of  # noqa: PLC0415  loads dask

    boards = status_of(farm)
    print_json_or(as_json, [dataclasses.asdict(one) for one in boards], lambda: _print_farm(boards))


def print_json_or(as_json: bool, data: Any, print_text: Callable[[], None]) -> None:  # noqa: FBT001  the flag itself
    """``data`` as JSON on stdout, or what ``print_text`` makes of it."""
    if as_json:
        typer.echo(json.dumps(data, indent=2))
    else:
        print_text()


def _print_targets(profiles: list["TargetProfile"]) -> None:
    for profile in profiles:
        names = ", ".join((profile.name, *profile.aliases))
        variants = "".join(f", @{variant}" for variant in profile.variants)
        typer.echo(f"{names:40} {profile.backend:12} {profile.description}{variants}")


def _print_farm(boards: "list[BoardStatus]") -> None:
    if not boards:
        typer.echo("no boards: start one by: kronexport farm worker --farm ADDRESS --board TARGET")
        return
    line = "{:40} {:20} {:12} {:>4}  {:>12}"
    typer.echo(line.format("worker", "board", "state", "jobs", "reference ms"))
    for one in boards:
        reference = "-" if one.reference_ms is None else f"{one.reference_ms:.3f}"
        typer.echo(line.format(one.worker, one.board, one.state, one.jobs, reference))
        if one.reason:
            typer.echo(f"    {one.reason}")
