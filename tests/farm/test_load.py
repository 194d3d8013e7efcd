"""A job goes to a board that has the least to do."""

from collections import Counter
from contextlib import ExitStack

import pytest

from kronexport.farm.load import CHOICES, Load

FEW = ["tcp://a", "tcp://b", "tcp://c"]
MANY = [f"tcp://{number}" for number in range(CHOICES + 1)]


@pytest.mark.parametrize("boards", [FEW, MANY])
def test_as_many_jobs_as_boards_are_one_each(boards: list[str]) -> None:
    load = Load()
    with ExitStack() as stack:
        given = Counter(stack.enter_context(load.least(boards))[0] for _ in range(2 * len(boards)))
    assert given == Counter(dict.fromkeys(boards, 2))


def test_of_few_boards_all_are_named_and_those_with_the_least_to_do_first() -> None:
    load = Load()
    with load.least(FEW), load.least(FEW) as second, load.least(MANY[:CHOICES]) as others:
        assert second == ["tcp://b", "tcp://c", "tcp://a"]
        assert others == MANY[:CHOICES]


def test_of_many_boards_the_one_whose_job_is_done_is_the_next() -> None:
    load = Load()
    with load.least(MANY), load.least(MANY[1:]):
        with load.least(MANY) as second:
            assert second == ["tcp://2"]
        with load.least(MANY) as again:
            assert again == ["tcp://2"]


def test_a_job_that_fails_is_one_less() -> None:
    load = Load()

    def fail() -> None:
        with load.least(MANY) as (address,):
            raise RuntimeError(address)

    for _ in range(3):
        with pytest.raises(RuntimeError, match="tcp://0"):
            fail()
