"""A scheduler that goes away: said in a sentence, and no matter to who needs it no more."""

from pathlib import Path

import dask
import pytest

from kronexport.errors import BoardError
from kronexport.farm.farm import Farm
from tests.farm.crew import scheduler


def test_a_scheduler_that_is_gone_is_told_with_the_remedy(tmp_path: Path) -> None:
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        with scheduler(tmp_path) as address:
            farm = Farm(address)
        for ask in (farm.seen, farm.addresses, farm.told, lambda: farm.tell("board", {})):
            with pytest.raises(BoardError, match=r"the scheduler is gone; start one by: dask scheduler"):
                ask()
        farm.close()
        farm.close()
        for addresses in (["tcp://127.0.0.1:1"], ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"]):
            with pytest.raises(BoardError, match=r"the scheduler is gone"):
                farm.begin([], [], {}, "cpu", addresses)


def test_tls_without_certificates_is_no_traceback() -> None:
    with pytest.raises(BoardError, match=r"tls:// needs certificates"):
        Farm("tls://127.0.0.1:1")
