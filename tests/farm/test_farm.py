"""A client with many jobs under way, on boards that take no time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from distributed import LocalCluster, WorkerPlugin

from kronexport.farm import farm as farm_module
from kronexport.farm.farm import Farm, _Call, _shared, _together, resource_of
from kronexport.farm.jobs import SEAT

JOBS, THREADS = 80, 8

pytestmark = pytest.mark.filterwarnings("ignore:Creating scratch directories")  # dask finds a busy machine slow


class InstantSeat(WorkerPlugin):
    """Answers with the job."""

    name = SEAT

    def run(self, _key: str, jobs: list[dict[str, Any]], *_: Any, **__: Any) -> dict[str, Any]:
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
    monkeypatch.setattr(instant.watcher, "_seconds", 0.01)
    addresses = sorted(instant.addresses())

    def run(number: int) -> int:
        own, movable = addresses[: 1 + number % 2], bool(number % 2)
        begun = instant.begin([{"number": number}], [60.0], {}, "cpu", own, movable=movable)
        (result,) = instant.finish(begun)["results"]
        return int(result["number"])

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(run, range(JOBS))) == list(range(JOBS))


def test_jobs_for_boards_of_a_kind_travel_together_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order; what is too large travels alone."""
    monkeypatch.setattr(farm_module, "_GRAPH_BYTES", 10)
    sizes = [4, 4, 4, 20, 1, 9]
    calls = [
        _Call(([], [], {"/model": bytes(size)}, False), kind, ("tcp://a",)) for size in sizes for kind in ("a", "b")
    ]
    for first in (0, 1):
        own = [[index for index in group if index % 2 == first] for group in _together(calls)]
        assert [[sizes[index // 2] for index in group] for group in own if group] == [[4, 4], [4], [20], [1, 9]]
    assert all(len({calls[index].profile for index in group}) == 1 for group in _together(calls))


def test_few_jobs_travel_together_lest_the_scheduler_looks_at_many_boards() -> None:
    boards = [f"tcp://{number:02}" for number in range(20)]
    calls = [_Call(([], [], {}, False), "cpu", (own, *boards[:7])) for own in boards]
    groups = _together(calls)
    assert [len(group) for group in groups] == [8, 8, 4]
    own, others = boards[8:16], boards[16:] + boards[:4]
    assert [_shared([calls[index] for index in group]) for group in groups[1:]] == [tuple(own), tuple(others)]
    assert _shared(calls[:1]) == tuple(boards[:7])


def test_each_caller_gets_its_own_job_and_few_graphs_are_sent(instant: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """What moves travels together and may run on either board; what does not, alone, and runs on its own."""
    sent: list[tuple[int, list[str]]] = []
    usual = instant._client.map

    def counted(function: Any, *arguments: Any, **options: Any) -> Any:
        sent.append((len(arguments[0]), options["workers"]))
        return usual(function, *arguments, **options)

    monkeypatch.setattr(instant._client, "map", counted)
    monkeypatch.setattr(farm_module, "_GATHER_SECONDS", 0.5)
    monkeypatch.setattr(farm_module, "_GATHER_SECONDS_A_JOB", 0.5)
    workers = instant._client.scheduler_info(n_workers=-1)["workers"]
    both = sorted(workers)
    under_way = instant.begin([{"number": -1}], [60.0], {}, "cpu", both[:1])  # so that others wait for company

    def run(number: int) -> int:
        own, *others = both if number // 2 % 2 else both[::-1]
        addresses, movable = [own, *others][: 1 + number % 2], bool(number % 2)
        begun = instant.begin([{"number": number}], [60.0], {}, "cpu", addresses, movable=movable)
        answer = instant.finish(begun)
        assert number % 2 or answer["board"] == str(workers[own]["name"])
        return int(answer["results"][0]["number"])

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(run, range(12))) == list(range(12))
    instant.finish(under_way)
    assert sum(count for count, _ in sent) == 13
    assert sum(count for count, at in sent if sorted(at) == both) >= 4
    assert len(sent) <= 7 + 2
