"""The error of CP by rank: one that decompose reaches, found by least squares at few ranks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from kronexport.factorize import cp_errors as module
from kronexport.factorize.cp_als import orthonormal_terms
from kronexport.factorize.cp_errors import cp_errors, cp_units
from kronexport.factorize.decompose import check_method, decompose
from kronexport.factorize.network import relative_error
from kronexport.factorize.tensor import Size4, rearrange

WEIGHTS = Path(__file__).parents[2] / "sample_models" / "weights" / "resnet20.safetensors"


def smooth(shape: Size4, seed: int = 0) -> NDArray[np.float64]:
    """A weight whose modes are correlated, as those of trained weights are."""
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal(shape)
    for axis, size in enumerate(shape):
        mixing = generator.standard_normal((size, size)) * np.linspace(1, 0.1, size)
        weight = np.moveaxis(np.tensordot(mixing, weight, axes=(1, axis)), 0, axis)
    return weight


@pytest.mark.parametrize("shape", [(16, 12, 3, 3), (12, 16, 1, 5), (20, 4, 3, 3)])
def test_it_is_near_what_decompose_reaches(shape: Size4) -> None:
    """At and between the anchors, up to a quarter of the params; above, more sweeps gain more of the little left."""
    weight = smooth(shape)
    ((unit, errors),) = cp_errors(weight).items()
    quarter = int(weight.size / unit.params / 4)
    for rank in range(1, quarter + 1, 2):
        reached = relative_error(weight, decompose(weight, replace(unit, ranks=(rank,))).to_dense()) ** 2
        assert 0.85 * reached <= errors[rank - 1] <= 1.5 * reached


def test_it_falls_from_rank_to_rank_and_ends_at_zero() -> None:
    weight = smooth((16, 12, 3, 3))
    ((unit, errors),) = cp_errors(weight).items()
    check_method(replace(unit, ranks=(len(errors),)))
    assert errors.dtype == np.float32
    assert (np.diff(errors) <= 1e-6).all()
    assert errors[-1] == pytest.approx(0, abs=1e-5)


def test_it_is_never_above_that_of_orthonormal_terms() -> None:
    """Which are the start; at rank 1 of a matrix of matrices least squares gains, too."""
    weight = smooth((16, 12, 3, 3)).astype(np.float32)
    ((unit, errors),) = cp_errors(weight).items()
    tails = orthonormal_terms(rearrange(weight, unit)).tails
    assert (errors <= tails + 1e-6).all()
    assert errors[30] < 0.9 * tails[30]


@pytest.mark.parametrize("shape", [(16, 12, 1, 1), (16, 1, 3, 3), (1, 12, 3, 3)])
def test_what_two_factors_can_do_has_no_units(shape: Size4) -> None:
    """Without a kernel, channels or filters a chain of three is a low-rank pair."""
    assert not list(cp_units(shape))
    assert cp_errors(np.ones(shape)) == {}


@pytest.mark.parametrize("shape", [(2, 2, 2, 1), (2, 3, 7, 7), (64, 2, 3, 3)])
def test_small_weights_have_as_many_ranks_as_are_of_use(shape: Size4) -> None:
    ((unit, errors),) = cp_errors(smooth(shape)).items()
    check_method(replace(unit, ranks=(len(errors),)))
    assert np.isfinite(errors).all()


def test_a_weight_of_zeros_has_no_error() -> None:
    ((_, errors),) = cp_errors(np.zeros((8, 6, 3, 3))).items()
    assert not errors.any()


def test_work_ends_where_the_check_says() -> None:
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        cp_errors(smooth((16, 12, 3, 3)), stop)


@pytest.mark.parametrize("layer", ["layer1.0.conv1", "layer2.0.conv1", "layer3.2.conv2"])
def test_trained_weights_are_interpolated_well(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the anchors as if least squares had been run there, too."""
    weight = load_file(WEIGHTS)[f"{layer}.weight"]
    ((unit, few),) = cp_errors(weight).items()
    even = weight.size / unit.params
    half = round(even / 2)
    monkeypatch.setattr(module, "ANCHORS", tuple(rank / even for rank in range(1, half + 1)))
    ((_, every),) = cp_errors(weight).items()
    np.testing.assert_allclose(few[:half], every[:half], rtol=0.15)


def test_ranks_of_much_work_are_extrapolated_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the anchors that are left; from none, the error is that of the orthonormal terms."""
    weight = smooth((16, 12, 3, 3)).astype(np.float32)
    ((unit, full),) = cp_errors(weight).items()
    tails = orthonormal_terms(rearrange(weight, unit)).tails
    monkeypatch.setattr(module, "_WORK", 15 * weight.size)
    assert 0.5 * full[20] <= cp_errors(weight)[unit][20] < 0.95 * tails[20]
    monkeypatch.setattr(module, "_WORK", 0)
    np.testing.assert_allclose(cp_errors(weight)[unit], tails, atol=1e-5)
