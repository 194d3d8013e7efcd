"""What the commands that time have in common: their options, and the line that says what they ran on."""

import argparse
import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any
from unittest.mock import patch

from benchmarks.table import head
from kronexport import agent
from kronexport.backends.profile import TargetProfile
from kronexport.config import BuildConfig, load_config
from kronexport.records import Speedup


def timing_parser(description: str | None) -> argparse.ArgumentParser:
    """With ``--target``, ``--threads`` and ``--seconds``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="cpu", help="cpu (ONNX Runtime) or openvino; default: cpu")
    parser.add_argument("--threads", type=int, default=1, help="threads of one inference; default: 1")
    parser.add_argument("--seconds", type=float, help="timed seconds of each model, for a short trial")
    return parser


def build_config(model: str, args: argparse.Namespace, **flags: Any) -> BuildConfig:
    """What ``kronexport build`` would be asked for with the options of ``timing_parser``.

    Args:
        model: MODEL of the command.
        args: the parsed options.
        flags: more fields of ``BuildConfig``; those that are None are left out.
    """
    overrides = [] if args.seconds is None else [f"measure.seconds={args.seconds}", "measure.warmup_seconds=0.1"]
    return load_config(None, {"model": model, "target": (args.target,), "threads": args.threads, **flags}, overrides)


def measured_heading(title: str, columns: Sequence[str], profile: TargetProfile, threads: int) -> str:
    """Date, versions, machine, its load before anything is timed, and ``title``; then the head of the table."""
    here = agent.machine_environment(profile.backend, threads, {}, before=agent.machine_state())
    runtime = f"{here['runtime']} {here['runtime_version']}"
    load = here["before"]["load_average"]
    parts = [
        f"{datetime.now(UTC):%Y-%m-%d}",
        f"Python {platform.python_version()}, torch {version('torch')}, {runtime}, {threads} thread(s)",
        f"{here['cpu_model'] or here['machine']} ({' '.join(here['cpu_features'])}), {here['logical_cores']} cores"
        + (f", load {load[0]:.2f}" if load else ""),
        title,
    ]
    return f"{'; '.join(parts)}\n\n{head(columns)}"


@contextmanager
def empty_cache() -> Iterator[None]:
    """Nothing is known of earlier runs within, in processes that are started there as well."""
    with (
        tempfile.TemporaryDirectory(prefix="kronexport-cache-") as folder,
        patch.dict(os.environ, {"KRONEXPORT_CACHE": folder}),
    ):
        yield


def speedup_text(speedup: Speedup) -> str:
    """``1.43x (1.37 to 1.55)``."""
    low, high = speedup.ci95
    return f"{speedup.median:.2f}x ({low:.2f} to {high:.2f})"
