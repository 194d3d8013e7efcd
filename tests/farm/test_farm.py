"""A client with many jobs under way, on boards that take no time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from distributed import LocalCluster, WorkerPlugin

from kronexport.farm import farm as farm_module
from kronexport.farm import outbox
from kronexport.farm.farm import Farm, _Call, _together, resource_of
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
            dashboard_address="127.0.0.1:0",
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


def test_jobs_for_the_same_boards_travel_together_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order; what is too large travels alone."""
    monkeypatch.setattr(farm_module, "_GRAPH_BYTES", 10)
    sizes = [4, 4, 4, 20, 1, 9]
    some, any_of_them = ("tcp://a", "tcp://b"), None
    calls = [
        _Call(([], [], {"/model": bytes(size)}), "cpu", boards) for size in sizes for boards in (some, any_of_them)
    ]
    for first in (0, 1):
        own = [[index for index in group if index % 2 == first] for group in _together(calls)]
        assert [[sizes[index // 2] for index in group] for group in own if group] == [[4, 4], [4], [20], [1, 9]]
    assert all(len({calls[index].addresses for index in group}) == 1 for group in _together(calls))


def test_each_caller_gets_its_own_job_and_few_graphs_are_sent(instant: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """For any board, for both, and for one."""
    sent: list[int] = []
    usual = instant._client.map

    def counted(function: Any, *arguments: Any, **options: Any) -> Any:
        sent.append(len(arguments[0]))
        return usual(function, *arguments, **options)

    monkeypatch.setattr(instant._client, "map", counted)
    monkeypatch.setattr(outbox, "GATHER_SECONDS", 0.5)
    both = list(instant._client.scheduler_info()["workers"])
    choices: list[list[str] | None] = [None, both, both[:1]]

    def run(number: int) -> int:
        future = instant.begin([{"number": number}], [60.0], {}, "cpu", choices[number % 3])
        (result,) = instant.finish(future, lambda: None)["results"]
        return int(result["number"])

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(run, range(12))) == list(range(12))
    assert sum(sent) == 12
    assert len(sent) <= 4 + 4  # one each for those to one board; at most two for each of the others
