"""All spectra of a weight: those of the SVD, whatever tree they grow on."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronexport.factorize.gkpd import divisor_structures, gkpd_structure, max_rank
from kronexport.factorize.spectra import forest, rows, scanned_structures, squared_errors
from kronexport.factorize.tensor import Size4, rearrange

ROUNDING = 2e-6
"""The Gram matrices are float32."""

shapes = st.tuples(
    st.sampled_from([1, 2, 5, 6, 8, 9, 12]),
    st.sampled_from([1, 3, 4, 7, 10]),
    st.sampled_from([1, 2, 3, 4, 7]),
    st.sampled_from([1, 3, 5, 6]),
)


@settings(max_examples=30, deadline=None)
@given(shapes, st.integers(-30, 12))
def test_every_spectrum_is_that_of_the_svd(shape: Size4, magnitude: int) -> None:
    """One structure after another, computed by itself in float64; weights of any size, primes and split kernels too."""
    generator = np.random.default_rng(0)
    # correlated: otherwise all spectra look alike
    mixing = generator.standard_normal((shape[1], shape[1])) * np.linspace(0.01, 1, shape[1])
    weight = 10.0**magnitude * np.einsum("fckl,dc->fdkl", generator.standard_normal(shape), mixing)
    found = squared_errors(weight)
    assert list(found) == list(divisor_structures(shape))
    for structure, spectrum in found.items():
        energies = np.linalg.svd(rearrange(weight, structure), compute_uv=False) ** 2
        tails = 1 - np.cumsum(energies) / np.sum(energies)
        assert spectrum.shape == (max_rank(structure),)
        np.testing.assert_allclose(spectrum, tails, atol=ROUNDING)


def test_errors_never_rise_with_the_rank() -> None:
    """Nor leave [0, 1]: rounding is cut off."""
    for spectrum in squared_errors(np.random.default_rng(0).standard_normal((8, 12, 3, 3))).values():
        assert spectrum[0] <= 1
        assert spectrum[-1] >= 0
        assert np.all(np.diff(spectrum) <= ROUNDING)


def test_zero_weights_have_no_error() -> None:
    """An all-zero layer is exact at every rank, without a division by zero."""
    found = squared_errors(np.zeros((4, 4, 3, 3), np.float32))
    assert not any(spectrum.any() for spectrum in found.values())


def test_what_check_raises_ends_the_work() -> None:
    """At once: no more is asked after that."""
    asked: list[int] = []

    def check() -> None:
        asked.append(len(asked))
        if len(asked) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        squared_errors(np.ones((8, 8, 3, 3)), check)
    assert len(asked) == 3


@pytest.mark.parametrize("shape", [(64, 64, 3, 3), (48, 20, 1, 1), (7, 5, 3, 3), (64, 3, 7, 7)])
def test_most_sides_need_no_product(shape: Size4) -> None:
    """The trees hold each side once, grow from larger to smaller, and have fewer roots than there are structures."""
    trees = forest(shape)
    branches = [branch for below in trees.branches.values() for branch in below]
    assert sorted([*trees.roots, *branches]) == sorted(set(trees.sides.values()))
    assert all(rows(branch) < rows(side) for side, below in trees.branches.items() for branch in below)
    assert len(trees.roots) <= len(trees.sides) / 2
    assert all(rows(side) ** 2 <= math.prod(shape) for side in trees.roots)


def test_a_large_weight_has_low_rank_pairs_and_what_is_affordable() -> None:
    """The largest conv of a ResNet has every structure; of one eight times as large the square ones are left out."""
    small, large = (512, 512, 3, 3), (1448, 1448, 3, 3)
    assert list(scanned_structures(small)) == list(divisor_structures(small))
    kept = list(scanned_structures(large))
    square = gkpd_structure((1448, 2, 1, 3), (1, 724, 3, 1), 1)
    assert gkpd_structure((1448, 1, 1, 1), (1, 1448, 3, 3), 1) in kept
    assert square not in kept
    assert square in list(divisor_structures(large))


def test_a_mirror_image_that_splits_no_mode_is_the_same() -> None:
    """F against C kh kw is C kh kw against F; where a mode is split, fast and slow differ."""
    sides = forest((8, 8, 3, 3)).sides
    whole, split = ((8, 1, 3, 1), (1, 8, 1, 3)), ((4, 2, 3, 1), (2, 4, 1, 3))
    assert sides[gkpd_structure(*whole, 1)] == sides[gkpd_structure(*whole[::-1], 1)]
    assert sides[gkpd_structure(*split, 1)] != sides[gkpd_structure(*split[::-1], 1)]
