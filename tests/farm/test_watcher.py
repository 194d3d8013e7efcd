"""Many threads wait, one looks."""

import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import closing

import pytest

from kronexport.errors import BoardError
from kronexport.farm.watcher import GoneError, Watcher


def test_what_is_done_is_waited_for_without_a_look() -> None:
    done: Future[int] = Future()
    done.set_result(1)
    watcher = Watcher(lambda: pytest.fail("looked"), 3600.0)
    watcher.wait(done, ["tcp://a"])
    watcher.close()


def test_who_waits_for_a_board_that_went_is_told_and_the_others_wait_on() -> None:
    there, other = {"tcp://a", "tcp://b"}, Future[int]()
    with ThreadPoolExecutor(2) as pool, closing(Watcher(lambda: set(there), 0.01)) as watcher:
        alone, either = ["tcp://a"], ["tcp://a", "tcp://b"]
        waits = [pool.submit(watcher.wait, Future[int](), alone), pool.submit(watcher.wait, other, either)]
        assert not any(wait.done() for wait in waits)
        there.remove("tcp://a")
        with pytest.raises(GoneError, match="tcp://a"):
            waits[0].result(timeout=30)
        assert not waits[1].done()
        other.set_result(1)
        waits[1].result(timeout=30)


def test_a_look_that_fails_ends_all_waits_and_the_next_is_made() -> None:
    looks = iter([BoardError("the scheduler is gone"), NameError("dask's own")])

    def look() -> set[str]:
        for error in looks:
            raise error
        return set()

    with closing(Watcher(look, 0.01)) as watcher:
        with pytest.raises(BoardError, match="the scheduler is gone"):
            watcher.wait(Future[int](), ["tcp://a"])
        with pytest.raises(NameError):
            watcher.wait(Future[int](), ["tcp://a"])
        with pytest.raises(GoneError):
            watcher.wait(Future[int](), ["tcp://a"])


def test_who_asked_is_told_at_each_look() -> None:
    told: list[set[str]] = []
    with closing(Watcher(lambda: {"tcp://b"}, 0.01)) as watcher:
        watcher.add_listener(told.append)
        with pytest.raises(GoneError):
            watcher.wait(Future[int](), ["tcp://a"])
    assert told[0] == {"tcp://b"}


def test_closing_ends_all_waits_and_those_that_come_later() -> None:
    watcher = Watcher(lambda: {"tcp://a"}, 3600.0)
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(watcher.wait, Future[int](), ["tcp://a"])
        watcher.close()
        with pytest.raises(CancelledError):
            wait.result(timeout=30)
    with pytest.raises(CancelledError):
        watcher.wait(Future[int](), ["tcp://a"])


def test_closing_is_told_to_who_waits_for_it() -> None:
    watcher = Watcher(set, 3600.0)
    assert not watcher.is_closed_within(0.0)
    told: list[bool] = []
    thread = threading.Thread(target=lambda: told.append(watcher.is_closed_within(3600.0)), daemon=True)
    thread.start()
    watcher.close()
    thread.join(30)
    assert told == [True]
