"""A row of simulated boards tells the scheduler's cost a job, and that nothing was lost."""

import dataclasses
import os

from benchmarks.farm_scale import COLUMNS, Flood, Scheduler, row

FLOOD = Flood(
    boards=1000,
    jobs=2000,
    payload=1500,
    takes=0.5,
    boards_lost=50,
    jobs_lost=0,
    run_twice=0,
    seconds=6.0,
    cpu_seconds=3.0,
    upkeep=0.1,
    empty=100_000_000,
    staffed=200_000_000,
    most=300_000_000,
)


def test_times_are_told_by_the_job() -> None:
    cells = row(FLOOD)
    counts, times = ["1000", "2000", "1.5", "0.5", "50", "0", "0", "17"], ["3.00", "1.50", "10.0", "1.20"]
    assert cells == [*counts, *times, "100", "200", "300"]
    assert len(cells) == len(COLUMNS)


def test_lost_jobs_are_told() -> None:
    assert row(dataclasses.replace(FLOOD, jobs_lost=3, run_twice=2))[5:7] == ["3", "2"]


def test_a_process_tells_its_memory_and_time() -> None:
    own = Scheduler("", os.getpid())
    assert 0 < own.memory <= own.peak
    assert own.cpu_seconds > 0
