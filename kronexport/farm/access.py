"""The way to a farm for commands that may have none: dask is imported only where there is one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kronexport.backends.profile import TargetProfile
from kronexport.farm import require_dask
from kronexport.machines.base import Machine
from kronexport.measure.race import RaceTiming
from kronexport.records import Precision

if TYPE_CHECKING:
    from kronexport.farm.farm import Farm


@contextmanager
def opened(address: str | None) -> Iterator["Farm | None"]:
    """The farm at ``address``; what still runs there when it is left is cancelled. None: there is none.

    Raises:
        MissingRuntimeError: dask is not installed, or another release than the scheduler's.
        BoardError: there is no scheduler.
    """
    if address is None:
        yield None
        return
    require_dask()
    from kronexport.farm.farm import Farm  # noqa: PLC0415  needs the extra "farm"

    with Farm(address) as farm:
        yield farm


@contextmanager
def boards_at(address: str | None) -> Iterator[Callable[[TargetProfile, int, Precision], Machine] | None]:
    """What finds the farm's boards of a target, for so many threads and a precision; raises as ``opened``."""
    with opened(address) as farm:
        if farm is None:
            yield None
            return
        from kronexport.farm.fleet import Fleet, Terms  # noqa: PLC0415  needs the extra "farm"

        def boards(profile: TargetProfile, threads: int, precision: Precision) -> Machine:
            return Fleet(farm, Terms(profile, threads, precision, RaceTiming()))

        yield boards
