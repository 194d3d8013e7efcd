"""``kronexport targets`` and ``kronexport cache``, and how every command prints its result."""

import dataclasses
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kronexport import options

if TYPE_CHECKING:
    from kronexport.backends.profile import TargetProfile

targets_app = typer.Typer(help="The devices that can be built for.", no_args_is_help=True)
cache_app = typer.Typer(help="What is kept between runs, so that it is computed once.", no_args_is_help=True)


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
