"""Which versions of kronexport and of dask's parts work together in one farm: the same ones.

A job is found by its function's name and read by the agent's keys, and dask promises its protocol for one release
alone: neither says of itself that another understood it wrongly.
"""

import functools
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import kronexport
from kronexport import agent


@functools.cache
def own_versions() -> dict[str, str]:
    """Those of this process; "agent" is a hash of its file, which may differ within a version under development."""
    return {
        "kronexport": kronexport.__version__,
        "agent": agent.sha256_of(agent.__file__)[:12],
        "distributed": version("distributed"),
        "python": python_release(platform.python_version()),
    }


def python_release(full: str) -> str:
    """The part that functions and arguments depend on: 3.11 of 3.11.7."""
    return ".".join(full.split(".")[:2])


def misfit(found: Mapping[str, Any], who: str) -> str | None:
    """Why ``who`` cannot work with this process, by those of its versions that it tells; None if it can."""
    own = own_versions()
    other = {name: expected for name, expected in own.items() if name in found and found[name] != expected}
    if not other:
        return None
    told = ", ".join(f"{name} {found[name]}, expected {expected}" for name, expected in other.items())
    return f"{who} has {told}; install the same versions there and here, and start it again"


def of_scheduler(told: Mapping[str, Any]) -> dict[str, str]:
    """The versions that dask's scheduler tells: it has no kronexport, and needs none."""
    return {
        "distributed": str(told["packages"]["distributed"]),
        "python": python_release(str(told["host"]["python"])),
    }
