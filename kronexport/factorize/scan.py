"""The weight error of every structure and rank of every site, each spectrum computed once for all targets."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronexport.factorize.gkpd import squared_errors
from kronexport.records import Structure


class ErrorScan:
    """||W - W^||^2 / ||W||^2 by site, structure and rank.

    Args:
        weights: [F, C, kh, kw] of each site by name.
    """

    def __init__(self, weights: Mapping[str, NDArray[Any]]) -> None:
        self._weights = weights
        self._errors: dict[tuple[str, Structure], NDArray[np.float64]] = {}

    def errors(self, site: str, unit: Structure) -> NDArray[np.float64]:
        """The error at rank 1, 2, ... up to the rank at which ``unit`` (of rank 1) is exact; about 1e-6 off."""
        key = site, unit
        if key not in self._errors:
            self._errors[key] = squared_errors(self._weights[site], unit)
        return self._errors[key]
