"""What every table here has in common: its first line, its cells, and rows that an interrupted run does not lose."""

import json
import os
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from kronexport.files import write_json_aside


def heading(title: str, columns: Sequence[str]) -> str:
    """Date, versions and ``title``, then the head of the table."""
    made = f"{datetime.now(UTC):%Y-%m-%d}; Python {platform.python_version()}, torch {version('torch')}"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    where = f"{torch.get_num_threads()} of {os.cpu_count()} cores, {gpu}"
    return f"{made}, {where}; {title}\n\n{head(columns)}"


def head(columns: Sequence[str]) -> str:
    """The first two lines of a Markdown table."""
    return f"{line(columns)}\n{line(['---'] * len(columns))}"


def line(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


class Rows:
    """Rows of a table, each printed and written to a file as soon as it is made.

    Args:
        path: JSON, the rows by name; rows that it already holds are not made again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made: dict[str, list[str]] = json.loads(path.read_text("utf-8")) if path.is_file() else {}

    def __contains__(self, name: str) -> bool:
        return name in self._made

    def print(self, name: str, make: Callable[[], list[str]]) -> None:
        """The row of that name, made by ``make`` if an earlier run did not get that far."""
        if name not in self._made:
            self._made[name] = make()
            write_json_aside(self._path, self._made)
        print(line(self._made[name]), flush=True)
