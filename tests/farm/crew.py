"""A real scheduler of dask, and workers in processes of their own, with scripted or real boards."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Hand:
    """A worker that serves; ``board`` is the JSON file of its board, if that is a scripted one."""

    name: str
    process: "subprocess.Popen[str]"
    board: Path

    def becomes(self, **board: Any) -> None:
        """Change the board: see scripted_agent.py."""
        self.board.write_text(json.dumps({"speed": 1.0, **board}), encoding="utf-8")


@dataclass
class Crew:
    """A farm of this machine. ``folder`` has the boards' files and the log of what ran."""

    address: str
    folder: Path
    hands: list[Hand] = field(default_factory=list)

    @property
    def lease(self) -> Path:
        """One for all boards, for all of them are this machine."""
        return self.folder / "lease"

    def hire(
        self,
        *,
        kind: str = "scripted",
        count: int = 1,
        lease: Path | None = None,
        device: str | None = None,
        **board: Any,
    ) -> list[Hand]:
        """Start workers; they serve when this returns. Scripted boards have leases of their own.

        ``device``: where a real board is; None: it is this machine.
        """
        numbers = range(len(self.hands), len(self.hands) + count)
        started = []
        for number in numbers:
            path = self.folder / f"board-{number}.json"
            path.write_text(json.dumps({"speed": 1.0, **board}), encoding="utf-8")
            own = lease or (self.folder / f"lease-{number}" if kind == "scripted" else self.lease)
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.farm.worker_process",
                    self.address,
                    str(own),
                    kind,
                    *([device] if device else []),
                ],
                cwd=ROOT,
                env={**os.environ, "FARM_BOARD": str(path), "FARM_LOG": str(self.folder / "log.jsonl")},
                stdout=subprocess.PIPE,
                text=True,
            )
            started.append((process, path))
        hired = []
        for process, path in started:
            assert process.stdout is not None
            hired.append(Hand(process.stdout.readline().split(" serves ")[0], process, path))
        self.hands += hired
        return hired

    def dismiss(self) -> None:
        """End all workers, as a user does."""
        for hand in self.hands:
            hand.process.terminate()
        for hand in self.hands:
            hand.process.communicate(timeout=30)
        self.hands.clear()

    def log(self, task: str, event: str = "begin") -> list[dict[str, Any]]:
        """What the scripted agents said of jobs of this task, but for references."""
        path = self.folder / "log.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        entries = [json.loads(line) for line in lines]
        return [
            entry
            for entry in entries
            if (entry["task"], entry["event"]) == (task, event) and entry["names"] != ["reference"]
        ]

    def forget(self) -> None:
        """Empty the log."""
        (self.folder / "log.jsonl").unlink(missing_ok=True)


@contextmanager
def scheduler(folder: Path, ending: signal.Signals = signal.SIGTERM) -> Iterator[str]:
    """The address of a scheduler in a process of its own, which is ended so."""
    told = folder / "scheduler.json"
    command = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    process = subprocess.Popen(
        [sys.executable, *command, "--scheduler-file", str(told)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not (told.exists() and told.read_text(encoding="utf-8")):
            assert process.poll() is None
        yield json.loads(told.read_text(encoding="utf-8"))["address"]
    finally:
        process.send_signal(ending)
        process.wait(timeout=30)
