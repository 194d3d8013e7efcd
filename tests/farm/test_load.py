"""A job goes to a board that has the least to do."""

from collections import Counter
from contextlib import ExitStack

import pytest

from kronexport.farm.load import Load

BOARDS = ["tcp://a", "tcp://b", "tcp://c"]


def test_as_many_jobs_as_boards_are_one_each() -> None:
    load = Load()
    with ExitStack() as stack:
        given = Counter(stack.enter_context(load.least(BOARDS)) for _ in range(6))
    assert given == Counter(dict.fromkeys(BOARDS, 2))


def test_a_board_whose_job_is_done_is_the_next() -> None:
    load = Load()
    with load.least(BOARDS), load.least(BOARDS[2:]):
        with load.least(BOARDS) as second:
            assert second == "tcp://b"
        with load.least(BOARDS) as again:
            assert again == "tcp://b"


def test_a_job_that_fails_is_one_less() -> None:
    load = Load()

    def fail() -> None:
        with load.least(BOARDS) as address:
            raise RuntimeError(address)

    for _ in range(3):
        with pytest.raises(RuntimeError, match="tcp://a"):
            fail()
