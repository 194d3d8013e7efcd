"""What the commands tell on stderr while they work: the stage, how long it took so far and will yet take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from kronexport.records import ProgressCallback

TOLD_EVERY: Final = 10.0
"""Seconds between lines on one stage where there is no terminal."""

_REMAINING = TimeRemainingColumn()


@contextmanager
def progress() -> Iterator[ProgressCallback]:
    """A callback that shows on stderr the stage at work, how long it took so far and will yet take.

    Each stage leaves a line: on a terminal with its time when it is over, elsewhere with its name when it begins, and
    how far it is every ``TOLD_EVERY`` seconds.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lines(console)
        return
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), _REMAINING
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def end() -> None:
            for stage, task in tasks.items():
                took = bars.tasks[bars.task_ids.index(task)].elapsed
                bars.remove_task(task)
                bars.print(f"{stage}: {took or 0:.1f} s", highlight=False)
            tasks.clear()

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                end()
                tasks[stage] = bars.add_task(stage, total=None if done == 0 else total)
            bars.update(tasks[stage], completed=done, total=None if done == 0 else total)

        yield tell
        end()


def lines(console: Console, now: Callable[[], float] = time.monotonic) -> ProgressCallback:
    """The same for a file or a pipe, which nothing that moves can be written to."""
    at_work, told = "", 0.0

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal at_work, told
        if stage == at_work and now() - told < TOLD_EVERY:
            return
        at_work, told = stage, now()
        text = f"{stage}: {done} of {total}" if total > 1 else stage
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    return tell
