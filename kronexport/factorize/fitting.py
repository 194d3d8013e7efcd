"""One layer's factors fitted to its calibration moments, with a ridge that held-out images choose.

    E(W^) + ridge * tr(S)/D * sum over f of w_f ||W_f - W^_f||^2

The ridge pulls towards the original weight: for directions that the calibration images hardly show, and for dead
channels, the fit becomes that of the weight. It keeps the problem positive definite whatever the images are.
"""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from kronexport.factorize.als import OutputError, alternate, dense_rows
from kronexport.factorize.moments import Moments
from kronexport.factorize.network import KroneckerNetwork

RIDGES = (1e-1, 1e-2, 1e-3, 1e-4)
"""Tried from the strongest on, each fit going on from the one before."""
_TRIAL_TOLERANCE = 1e-2
"""Ten times the final one: ridges differ by more than what the later sweeps gain."""


def fit(start: KroneckerNetwork, weight: NDArray[Any], seen: Moments, held: Moments, rows: Tensor) -> KroneckerNetwork:
    """``start`` fitted to the moments, or ``start`` itself if no fit is better on the held-out half.

    The ridge is chosen by fits to ``seen`` alone, judged on ``held``; the fit that is returned uses both. Where
    ``held`` is empty (one batch of images), the strongest ridge is taken.

    Args:
        start: the structure and its first values.
        weight: the original weight W, [F, C, kh, kw].
        seen: moments of one half of the images.
        held: moments of the other half.
        rows: what an error in each output channel counts, [F], >= 0.
    """
    original = torch.from_numpy(weight.reshape(len(weight), -1)).to(seen.gram.dtype)
    rows = rows.to(seen.gram.dtype)
    both = seen + held
    if not float(rows.max()) > 0 or not float(both.gram.diagonal(dim1=1, dim2=2).max()) > 0:
        return start
    judge = _output_error(held if held.count else seen, original, rows, 0.0)
    least, chosen, best, network = judge(dense_rows(start, original.dtype)), 0.0, start, start
    for ridge in RIDGES if held.count else RIDGES[:1]:
        network = alternate(network, _output_error(seen, original, rows, ridge), _TRIAL_TOLERANCE)
        reached = judge(dense_rows(network, original.dtype))
        if reached < least:
            least, chosen, best = reached, ridge, network
    if best is start or not held.count:
        return best
    return alternate(best, _output_error(both, original, rows, chosen))


def _output_error(moments: Moments, weight: Tensor, rows: Tensor, ridge: float) -> OutputError:
    """Means instead of sums, and the ridge."""
    gram = moments.gram / moments.count
    diagonal = gram.diagonal(dim1=1, dim2=2)
    pull = ridge * diagonal.mean()
    diagonal.add_(pull)
    return OutputError(
        gram,
        moments.cross / moments.count + pull * weight,
        moments.energy / moments.count + pull * weight.square().sum(dim=1),
        rows,
    )
