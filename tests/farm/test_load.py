"""A job goes to a board that has the least to do."""

from collections import Counter
from contextlib import ExitStack

import pytest

from kronexport.farm.load import Load

BOARDS = ["tcp://a", "tcp://b", "tcp://c"]


def test_as_many_jobs_as_boards_are_one_each() -> None:
    load = Load()
    with ExitStack() as stack:
        given = Counter(stack.enter_context(load.least(BOARDS, 2))[0] for _ in range(6))
    assert given == Counter(dict.fromkeys(BOARDS, 2))


def test_a_board_whose_job_is_done_is_the_next() -> None:
    load = Load()
    with load.least(BOARDS, 1), load.least(BOARDS[2:], 1):
        with load.least(BOARDS, 1) as second:
            assert second == ["tcp://b"]
        with load.least(BOARDS, 1) as again:
            assert again == ["tcp://b"]


def test_a_job_that_fails_is_one_less() -> None:
    load = Load()

    def fail() -> None:
        with load.least(BOARDS, 1) as (address,):
            raise RuntimeError(address)

    for _ in range(3):
        with pytest.raises(RuntimeError, match="tcp://a"):
            fail()


def test_the_next_best_stand_by() -> None:
    load = Load()
    with load.least(BOARDS, 1), load.least(BOARDS, 5) as all_of_them:
        assert all_of_them == ["tcp://b", "tcp://c", "tcp://a"]
