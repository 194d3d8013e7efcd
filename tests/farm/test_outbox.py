"""Requests of several threads travel together, and each gets its own answer."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from kronexport.farm import outbox
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


@pytest.fixture
def sender() -> Sender:
    return Sender()


def test_each_gets_its_own_answer_and_few_are_sent_alone(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "GATHER_SECONDS", 0.5)
    box: Outbox[int, int] = Outbox(sender.send)
    meet = threading.Barrier(COUNT)

    def put(number: int) -> int:
        meet.wait()
        return box.put(number)

    with ThreadPoolExecutor(COUNT) as pool:
        assert list(pool.map(put, range(COUNT))) == [2 * number for number in range(COUNT)]
    assert sorted(number for sent in sender.sent for number in sent) == list(range(COUNT))
    assert len(sender.sent) < COUNT / 2


def test_what_sending_raises_comes_to_all_and_the_next_is_sent(sender: Sender) -> None:
    box: Outbox[int, int] = Outbox(sender.send)
    with pytest.raises(ValueError, match="-1"):
        box.put(-1)
    assert box.put(3) == 6


def test_a_signal_in_the_wait_leaves_nobody_waiting(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    box: Outbox[int, int] = Outbox(sender.send)
    others: list[int] = []
    second = threading.Thread(target=lambda: others.append(box.put(2)), daemon=True)

    def interrupted(_seconds: float) -> None:
        second.start()
        while len(box._waiting) < 2:  # the second waits for the first
            pass
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        box.put(1)
    second.join(10)
    assert others == [4]
    assert sender.sent == [[1, 2]]
