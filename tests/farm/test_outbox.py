"""Requests of several threads travel together, and each gets its own answer."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from kronexport.farm.outbox import Outbox

COUNT = 20


class Sender:
    """Keeps what was sent together; refuses what is negative."""

    def __init__(self) -> None:
        self.sent: list[list[int]] = []

    def send(self, requests: Sequence[int]) -> list[int]:
        self.sent.append(list(requests))
        if min(requests) < 0:
            raise ValueError(min(requests))
        return [2 * request for request in requests]


def at_once(sender: Sender, numbers: Sequence[int]) -> list["Future[int]"]:
    """All numbers put by a thread each, which begin together."""
    box: Outbox[int, int] = Outbox(sender.send, lambda: 0.5)
    meet = threading.Barrier(len(numbers))

    def put(number: int) -> int:
        meet.wait()
        return box.put(number)

    with ThreadPoolExecutor(len(numbers)) as pool:
        return [pool.submit(put, number) for number in numbers]


def test_each_gets_its_own_answer_and_few_are_sent_alone() -> None:
    sender = Sender()
    found = at_once(sender, range(COUNT))
    assert [future.result() for future in found] == [2 * number for number in range(COUNT)]
    assert sorted(number for sent in sender.sent for number in sent) == list(range(COUNT))
    assert len(sender.sent) < COUNT / 2


def test_what_sending_raises_comes_to_all_that_were_sent_with_it() -> None:
    sender = Sender()
    failed = [future for future in at_once(sender, [-1, 1, 2, 3]) if future.exception() is not None]
    (refused,) = (sent for sent in sender.sent if -1 in sent)
    assert len(failed) == len(refused)
    assert all(isinstance(future.exception(), ValueError) for future in failed)


def test_an_answer_too_few_is_no_wait_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    sender = Sender()
    usual = sender.send
    monkeypatch.setattr(sender, "send", lambda requests: usual(requests)[:-1])
    assert all(isinstance(future.exception(), ValueError) for future in at_once(sender, range(4)))


def test_after_a_failure_the_next_is_sent() -> None:
    box: Outbox[int, int] = Outbox(Sender().send, lambda: 0.0)
    with pytest.raises(ValueError, match="-1"):
        box.put(-1)
    assert box.put(3) == 6
