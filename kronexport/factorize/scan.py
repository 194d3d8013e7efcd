"""The weight error of every structure and rank of every site: found once, side by side, and kept on disk."""

import io
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

from kronexport.cache import content_key, read_cached, write_cached
from kronexport.factorize.cp import cp_max_ranks
from kronexport.factorize.cp_errors import cp_errors, cp_units
from kronexport.factorize.gkpd import max_rank
from kronexport.factorize.spectra import scanned_structures, squared_errors
from kronexport.factorize.tensor import Size4
from kronexport.factorize.tucker_errors import tucker2_errors, tucker2_units
from kronexport.records import ProgressCallback, Structure

ErrorTable = NDArray[np.float32]
"""||W - W^||^2 / ||W||^2 with one axis a rank axis: entry [R1 - 1, R2 - 1, ...] is that at ranks R1, R2, ..."""


def _nothing() -> None:
    """The check of work that nobody interrupts."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """How a method's structures are scanned.

    ``units`` are those of a weight [F, C, kh, kw] at ranks of 1, ``errors`` their tables, of ``table_shape``.
    ``version`` is to be raised when ``errors`` gives other values, so that those on disk are left alone.
    """

    units: Callable[[Size4], Iterable[Structure]]
    table_shape: Callable[[Structure], tuple[int, ...]]
    errors: Callable[[NDArray[Any], Callable[[], None]], Mapping[Structure, ErrorTable]]
    version: int


SCANNED: dict[str, Scanned] = {
    "gkpd": Scanned(scanned_structures, lambda unit: (max_rank(unit),), squared_errors, 1),
    "cp": Scanned(cp_units, lambda unit: (cp_max_ranks(unit)["a"],), cp_errors, 1),
    "tucker2": Scanned(tucker2_units, lambda unit: unit.weight_shape[:2], tucker2_errors, 1),
}
"""By method."""


class ErrorScan:
    """||W - W^||^2 / ||W||^2 by site and structure.

    Args:
        weights: [F, C, kh, kw] of each site by name, finite.
    """

    def __init__(self, weights: Mapping[str, NDArray[Any]]) -> None:
        self._weights = weights
        self._tables: dict[str, Mapping[Structure, ErrorTable]] = {}

    def prefetch(self, progress: ProgressCallback) -> None:
        """Scan all sites, the largest first, as many at a time as the BLAS would use threads.

        Sites side by side keep all cores busy; the eigenvalues of one matrix do not.

        Args:
            progress: told ("scan", sites done, sites), from the calling thread.
        """
        workers = max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)
        sites = sorted(self._weights, key=lambda site: -self._weights[site].size)
        progress("scan", 0, len(sites))
        stopped = Event()

        def check() -> None:
            if stopped.is_set():
                raise CancelledError

        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
            found = {pool.submit(all_errors, self._weights[site], check): site for site in sites}
            try:
                for done, future in enumerate(as_completed(found), 1):
                    self._tables[found[future]] = future.result()
                    progress("scan", done, len(sites))
            finally:  # at Ctrl-C nobody waits for the sites that are at work
                stopped.set()
                pool.shutdown(cancel_futures=True)

    def key(self, site: str) -> bytes:
        """The hash of all that the errors of a site depend on."""
        versions = repr({method: scanned.version for method, scanned in SCANNED.items()})
        return content_key(versions.encode(), _described(self._weights[site]), self._weights[site].tobytes()).encode()

    def errors(self, site: str, unit: Structure) -> ErrorTable:
        """The error of ``unit`` at all its ranks, up to those that are of any use.

        That of GKPD is exact but for about 1e-6, that of CP and Tucker-2 what a fit to the weight reaches or
        passes below (cp_errors.py, tucker_errors.py).

        Args:
            site: a name in ``weights``; what was not prefetched is scanned now.
            unit: one of the units of ``SCANNED``.
        """
        if site not in self._tables:
            self._tables[site] = all_errors(self._weights[site])
        return self._tables[site][unit]


def all_errors(weight: NDArray[Any], check: Callable[[], None] = _nothing) -> Mapping[Structure, ErrorTable]:
    """The tables of a weight [F, C, kh, kw] by every method; ``check`` is called now and then, and may raise."""
    return {unit: table for method in SCANNED for unit, table in method_errors(method, weight, check).items()}


def method_errors(
    method: str, weight: NDArray[Any], check: Callable[[], None] = _nothing
) -> Mapping[Structure, ErrorTable]:
    """The tables of a weight [F, C, kh, kw] by one method of ``SCANNED``, from the cache where they are there."""
    scanned = SCANNED[method]
    units = list(scanned.units(weight.shape))
    if not units:
        return {}
    key = content_key(repr((method, scanned.version)).encode(), _described(weight), weight.tobytes())
    content = read_cached("scan", key)
    kept = None if content is None else _unpacked(content, [scanned.table_shape(unit) for unit in units])
    if kept is not None:
        return dict(zip(units, kept, strict=True))
    found = scanned.errors(weight, check)
    write_cached("scan", key, _packed(found))
    return found


def _described(weight: NDArray[Any]) -> bytes:
    return repr((weight.shape, weight.dtype.str)).encode()


def _packed(tables: Mapping[Structure, ErrorTable]) -> bytes:
    file = io.BytesIO()
    np.savez(file, errors=np.concatenate([table.ravel() for table in tables.values()]))
    return file.getvalue()


def _unpacked(content: bytes, shapes: list[tuple[int, ...]]) -> list[ErrorTable] | None:
    """What ``_packed`` was given, None where the file is damaged."""
    ends = list(itertools.accumulate(map(math.prod, shapes)))
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            errors: ErrorTable = file["errors"]
    except Exception:  # noqa: BLE001  whatever zip and npy make of damage
        return None
    if errors.dtype != np.float32 or errors.shape != (ends[-1],):
        return None
    return [part.reshape(shape) for part, shape in zip(np.split(errors, ends[:-1]), shapes, strict=True)]
