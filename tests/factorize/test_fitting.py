"""One layer's fit: better than the SVD on images that it has not seen, and never worse."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kronexport.factorize import fitting
from kronexport.factorize.als import OutputError, dense_rows
from kronexport.factorize.fitting import fit
from kronexport.factorize.gkpd import gkpd, gkpd_structure
from kronexport.factorize.moments import Moments
from kronexport.factorize.network import KroneckerNetwork, relative_error
from tests.factorize.samples import Patches, patches_of, random_rows

STRUCTURE = gkpd_structure((4, 6, 3, 1), (2, 1, 1, 3), 4)
WEIGHT = np.random.default_rng(0).standard_normal(STRUCTURE.weight_shape)
START = gkpd(WEIGHT, STRUCTURE)
EVEN = torch.ones(8, dtype=torch.float64)


def halves(patches: Patches) -> tuple[Patches, Patches]:
    """The even and the odd columns."""
    first, second = (Patches(patches.inputs[..., i::2], patches.targets[:, i::2]) for i in (0, 1))
    return first, second


def moments_of(patches: Patches) -> tuple[Moments, Moments]:
    """Of both halves."""
    seen, held = halves(patches)
    return seen.moments(), held.moments()


def error_on(patches: Patches, network: KroneckerNetwork) -> float:
    """Sum ||y - W^ x||^2, computed from the patches themselves."""
    return float((patches.targets - dense_rows(network, torch.float64) @ patches.inputs[0]).square().sum())


def test_the_fit_is_better_on_patches_that_it_never_saw() -> None:
    """By a wide margin where patches are correlated, as they are in images."""
    seen, other = halves(patches_of(WEIGHT, 0, 4000))
    fitted = fit(START, WEIGHT, *moments_of(seen), EVEN)
    assert error_on(other, fitted) < 0.7 * error_on(other, START)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.integers(2, 80), st.sampled_from([0.0, 0.3, 3.0]))
def test_it_is_never_worse_than_its_start_on_the_held_out_half(seed: int, count: int, noise: float) -> None:
    """Few patches and wild noise included."""
    seen, held = halves(patches_of(WEIGHT, seed, count, noise))
    fitted = fit(START, WEIGHT, seen.moments(), held.moments(), EVEN)
    assert error_on(held, fitted) <= error_on(held, START) * (1 + 1e-9)


def test_noise_asks_for_a_stronger_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """With few noisy patches the weakest ridge overfits; the one that is chosen does not."""
    seen, held = halves(patches_of(WEIGHT, 3, 140, noise=2.0))
    chosen = fit(START, WEIGHT, seen.moments(), held.moments(), EVEN)
    monkeypatch.setattr(fitting, "RIDGES", (1e-7,))
    overfitted = fit(START, WEIGHT, seen.moments(), held.moments(), EVEN)
    fresh = patches_of(WEIGHT, 3, 5000, noise=2.0)
    assert error_on(fresh, chosen) < error_on(fresh, overfitted)


def test_if_no_fit_is_better_the_start_comes_back() -> None:
    """Halves that contradict each other: what is fitted to one is wrong for the other."""
    seen = patches_of(-WEIGHT, 0, 400).moments()
    held = patches_of(WEIGHT, 0, 400).moments()
    assert fit(START, WEIGHT, seen, held, EVEN) is START


def test_error_feedback_repairs_what_came_before() -> None:
    """Inputs that an earlier layer scaled by 0.8 ask for a weight that is 1.25 times as large."""
    full = gkpd_structure((8, 1, 1, 1), (1, 6, 3, 3), 8)
    patches = patches_of(WEIGHT, 0, 4000)
    spoilt = Patches(0.8 * patches.inputs, patches.targets)
    start = gkpd(WEIGHT, full)
    fitted = fit(start, WEIGHT, *moments_of(spoilt), EVEN)
    assert error_on(spoilt, fitted) <= 1e-3 * error_on(spoilt, start)
    assert relative_error(1.25 * WEIGHT, fitted.to_dense()) <= 0.03


def test_dead_channels_keep_the_weight() -> None:
    """The ridge decides what the images cannot: a dead channel's part stays near the original."""
    full = gkpd_structure((8, 1, 1, 1), (1, 6, 3, 3), 8)
    patches = patches_of(WEIGHT, 0, 1000)
    patches.inputs[:, :9] = 0
    fitted = fit(gkpd(WEIGHT, full), WEIGHT, *moments_of(patches), EVEN)
    assert relative_error(WEIGHT[:, 0], fitted.to_dense()[:, 0]) <= 1e-3


def test_rows_that_count_more_are_fitted_better() -> None:
    """The heavier half of the output channels gains, the other pays."""
    patches = patches_of(WEIGHT, 0, 4000)
    moments = moments_of(patches)
    heavy = torch.where(torch.arange(8) < 4, 100.0, 1.0).double()
    top = torch.where(torch.arange(8) < 4, 1.0, 0.0).double()
    error = OutputError(*_sums(patches), top)
    weighted, even = (fit(START, WEIGHT, *moments, rows) for rows in (heavy, EVEN))
    assert error(dense_rows(weighted, torch.float64)) < 0.95 * error(dense_rows(even, torch.float64))


def _sums(patches: Patches) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    moments = patches.moments()
    return moments.gram, moments.cross, moments.energy


@pytest.mark.parametrize("rows", [torch.zeros(8), random_rows(8, 0)])
def test_nothing_to_fit_gives_the_start_back(rows: torch.Tensor) -> None:
    """All rows weigh nothing, or the images are all zero."""
    patches = patches_of(WEIGHT, 0, 50)
    if float(rows.sum()) > 0:
        patches.inputs.zero_()
    seen, held = moments_of(patches)
    assert fit(START, WEIGHT, seen, held, rows) is START


def test_one_batch_of_images_is_fitted_with_the_strongest_ridge() -> None:
    """There is nothing to judge on: the fit is still better on what it saw, and close to the weight."""
    patches = patches_of(WEIGHT, 0, 30)
    fitted = fit(START, WEIGHT, patches.moments(), Moments.zero(8, 54), EVEN)
    assert error_on(patches, fitted) < error_on(patches, START)
    assert relative_error(WEIGHT, fitted.to_dense()) < 1.5 * relative_error(WEIGHT, START.to_dense())
