"""What runs on a farm's workers: functions that are found by their name, with JSON and bytes for arguments."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from distributed import WorkerPlugin, get_worker

from kronexport.farm.child import RESULTS
from kronexport.farm.parcel import Files, Job, outputs_of, unpacked
from kronexport.machines.session import LEASE

SEAT: Final = "kronexport-board"
"""The name of the worker's plugin that has the board."""

COMMAND: Final = (sys.executable, "-m", "kronexport.farm.child")

_TAIL: Final = 2000


@dataclass(frozen=True, slots=True)
class BoardSpec:
    """The board of a worker.

    Attributes:
        profile: the target that it is.
        device: where it is, ``ssh://...``; None: it is the worker's own machine.
        python: its interpreter, of a board over SSH.
        lease: the file there whose lock is the lease.
    """

    profile: str
    device: str | None = None
    python: str = "python3"
    lease: str = LEASE


def run_jobs(jobs: Sequence[Job], seconds: Sequence[float], files: Files, keep: bool) -> dict[str, Any]:  # noqa: FBT001  dask maps positions
    """Run agent's jobs one after the other on the worker's board, which has no other meanwhile.

    Args:
        jobs: as ``parcel.packed`` makes them.
        seconds: the longest that each may take.
        files: those that they read and the worker has not kept.
        keep: the worker keeps the files, for jobs that come later.

    Returns:
        "board", the worker's name, and "results" and "outputs" of each job, or "error" as ``child`` tells it.
    """
    worker = get_worker()
    seat = cast("Seat", worker.plugins[SEAT])
    return {"board": str(worker.name), **seat.run(str(worker.get_current_task()), jobs, seconds, files, keep=keep)}


class Seat(WorkerPlugin):
    """A worker's hold on its board: each job is a process, which ends when the job is cancelled or the worker closes.

    Args:
        spec: the board.
        command: what runs ``child.main``.
    """

    name = SEAT

    def __init__(self, spec: BoardSpec, command: Sequence[str] = COMMAND) -> None:
        self.spec = spec
        self._command = list(command)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: set[str] = set()
        self._kept: Files = {}

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        """Dask lets a thread run on when its job is cancelled; here its process is ended."""
        if (start, finish) == ("executing", "released"):
            self.end(str(key))

    def teardown(self, worker: Any) -> None:  # noqa: ARG002  dask's signature
        self.end("")

    def end(self, key: str) -> None:
        """End the job that runs; ``key`` is its own, lest it is only about to begin."""
        with self._lock:
            self._ended.add(key)
            if self._process is not None:
                self._process.terminate()

    def run(
        self, key: str, jobs: Sequence[Job], seconds: Sequence[float], files: Files, *, keep: bool = False
    ) -> dict[str, Any]:
        """As ``run_jobs``, but for the board's name."""
        spec, present = self.spec, self._kept | files
        if keep:
            self._kept = present
        try:
            with tempfile.TemporaryDirectory(prefix="kronexport-farm-") as name:
                placed = unpacked(jobs, present, Path(name))
                order = {"device": spec.device, "python": spec.python, "lease": spec.lease, "folder": name}
                answer = self._answered(key, Path(name), {**order, "jobs": placed, "seconds": list(seconds)})
                return answer if "error" in answer else {**answer, "outputs": outputs_of(placed)}
        except OSError as error:
            return {"error": {"code": 1, "lost": True, "message": f"the worker's host: {error}"}}

    def _answered(self, key: str, folder: Path, order: dict[str, Any]) -> dict[str, Any]:
        stderr, results = folder / "stderr.txt", folder / RESULTS
        with stderr.open("wb") as stream:
            process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stream, start_new_session=True
            )
        assert process.stdin is not None  # noqa: S101  it is a pipe
        with self._lock:
            self._process = process
            if key in self._ended:
                process.terminate()
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(order).encode() + b"\n")
                process.stdin.flush()
            code = process.wait()
        finally:
            with self._lock:
                self._process = None
                self._ended.discard(key)
            with suppress(ProcessLookupError):  # nothing that it began outlives it
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(BrokenPipeError):
                process.stdin.close()
        if code == 0:
            return dict(json.loads(results.read_text(encoding="utf-8")))
        said = stderr.read_text(encoding="utf-8", errors="replace")[-_TAIL:].strip()
        return {
            "error": {"code": 1, "lost": True, "message": f"the job's process ended with code {code} {said}".strip()}
        }
