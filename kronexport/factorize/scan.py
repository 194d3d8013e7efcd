"""The weight error of every structure and rank of every site: computed once, side by side, and kept on disk."""

import io
import itertools
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

from kronexport.cache import content_key, read_cached, write_cached
from kronexport.factorize.gkpd import max_rank
from kronexport.factorize.spectra import Spectrum, scanned_structures, squared_errors
from kronexport.factorize.tensor import Size4
from kronexport.records import ProgressCallback, Structure

ALGORITHM = 1
"""To be raised when spectra.py gives other values, so that those on disk are left alone."""


class ErrorScan:
    """||W - W^||^2 / ||W||^2 by site, structure and rank.

    Args:
        weights: [F, C, kh, kw] of each site by name, finite.
    """

    def __init__(self, weights: Mapping[str, NDArray[Any]]) -> None:
        self._weights = weights
        self._spectra: dict[str, Mapping[Structure, Spectrum]] = {}

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
                    self._spectra[found[future]] = future.result()
                    progress("scan", done, len(sites))
            finally:  # at Ctrl-C nobody waits for the sites that are at work
                stopped.set()
                pool.shutdown(cancel_futures=True)

    def errors(self, site: str, unit: Structure) -> Spectrum:
        """The error at rank 1, 2, ... up to the rank at which ``unit`` is exact; about 1e-6 off.

        Args:
            site: a name in ``weights``; what was not prefetched is scanned now.
            unit: one of ``scanned_structures``.
        """
        if site not in self._spectra:
            self._spectra[site] = all_errors(self._weights[site])
        return self._spectra[site][unit]


def all_errors(weight: NDArray[Any], check: Callable[[], None] = lambda: None) -> Mapping[Structure, Spectrum]:
    """``squared_errors`` of a weight [F, C, kh, kw], from the cache where it is there."""
    key = content_key(repr((ALGORITHM, weight.shape, weight.dtype.str)).encode(), weight.tobytes())
    content = read_cached("scan", key)
    kept = None if content is None else _unpacked(content, weight.shape)
    if kept is not None:
        return kept
    found = squared_errors(weight, check)
    write_cached("scan", key, _packed(found))
    return found


def _packed(spectra: Mapping[Structure, Spectrum]) -> bytes:
    file = io.BytesIO()
    np.savez(file, errors=np.concatenate([np.empty(0, np.float32), *spectra.values()]))
    return file.getvalue()


def _unpacked(content: bytes, weight_shape: Size4) -> dict[Structure, Spectrum] | None:
    """What ``_packed`` was given, None where the file is damaged."""
    units = list(scanned_structures(weight_shape))
    ends = list(itertools.accumulate(map(max_rank, units)))
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            errors: Spectrum = file["errors"]
    except Exception:  # noqa: BLE001  whatever zip and npy make of damage
        return None
    if errors.dtype != np.float32 or errors.shape != (sum(map(max_rank, units)),):
        return None
    return dict(zip(units, np.split(errors, ends)[:-1], strict=True))
