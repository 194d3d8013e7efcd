"""Agent's jobs as they travel to a farm's worker: JSON, and the bytes of their files by the hash of what is in them.

The bytes are arguments of the job, not data that is scattered over the workers beforehand: what is scattered lives with
the worker that got it, so that a job whose worker is lost could not run elsewhere. The reference alone, which each
board runs before all else, is kept by the board. Arguments stay with the scheduler until the job is done. No more jobs
are under way than there are boards, which bounds what it has to hold.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kronexport.machines.session import relocated

Job = dict[str, Any]
Files = dict[str, bytes]
"""Content by a path of its own: a hash, then the file's name."""

_OUTPUTS = "outputs_npz"


def packed(jobs: Sequence[Job]) -> tuple[list[Job], Files]:
    """The jobs with paths from no folder in particular, and the files that they read."""
    there: list[Job] = []
    files: Files = {}
    for job in jobs:
        moved, sources = relocated(job, "")
        there.append(moved)
        files |= {path: source.read_bytes() for path, source in sources.items()}
    return there, files


def unpacked(jobs: Sequence[Job], files: Files, folder: Path) -> list[Job]:
    """The jobs with their files in ``folder``, which gets what they write, too."""
    for path, content in files.items():
        target = Path(f"{folder}{path}")
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content)
    return [_within(job, folder) for job in jobs]


def outputs_of(jobs: Sequence[Job]) -> list[bytes | None]:
    """What each of the ``unpacked`` jobs wrote, if that was asked for."""
    return [Path(job[_OUTPUTS]).read_bytes() if _OUTPUTS in job else None for job in jobs]


def _within(job: Job, folder: Path) -> Job:
    placed = dict(job)
    if "models" in job:
        placed["models"] = [{**model, "path": f"{folder}{model['path']}"} for model in job["models"]]
    for key in ("inputs_npz", _OUTPUTS):
        if key in job:
            placed[key] = f"{folder}{job[key]}"
    return placed
