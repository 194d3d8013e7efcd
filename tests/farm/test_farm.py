"""A client with many jobs under way, on boards that take no time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from distributed import LocalCluster, WorkerPlugin

from kronexport.farm import farm as farm_module
from kronexport.farm.farm import Farm, resource_of
from kronexport.farm.jobs import SEAT

JOBS, THREADS = 80, 8


class InstantSeat(WorkerPlugin):
    """Answers with the job."""

    name = SEAT

    def run(self, _key: str, jobs: list[dict[str, Any]], *_: Any) -> dict[str, Any]:
        return {"results": jobs}


@pytest.fixture
def instant() -> Iterator[Farm]:
    """A farm of two boards in this process."""
    with (
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=2,
            threads_per_worker=1,
            processes=False,
            protocol="tcp",
            dashboard_address=None,
            resources={resource_of("cpu"): 1},
            plugins=(InstantSeat(),),
        ) as cluster,
        Farm(cluster.scheduler_address) as farm,
    ):
        yield farm


def test_looking_after_boards_takes_no_result_from_another_wait(instant: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask fetches the results of several waits together: one that gave up waiting would cancel them all."""
    monkeypatch.setattr(farm_module, "WATCH_SECONDS", 0.01)

    def run(number: int) -> int:
        future = instant.begin([{"number": number}], [60.0], {}, "cpu", None)
        (result,) = instant.finish(future, lambda: None)["results"]
        return int(result["number"])

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(run, range(JOBS))) == list(range(JOBS))
