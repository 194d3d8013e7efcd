"""Alternating least squares: never up, ends where no core can be improved, finds what is there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronexport.errors import UserInputError
from kronexport.factorize.network import KroneckerNetwork, relative_error
from kronexport.factorize.refine import refinable, refine, refine_best
from kronexport.factorize.sekron import recursive_svd, sekron_structure
from kronexport.factorize.tensor_ring import tensor_ring_structure
from kronexport.records import FactorShape, Structure
from tests.strategies import METHOD_STRUCTURES, random_network, structures


def noisy(network: KroneckerNetwork, noise: float) -> KroneckerNetwork:
    """Each factor changed by ``noise`` times its root mean square."""
    generator = np.random.default_rng(1)
    return KroneckerNetwork(
        network.structure,
        tuple(f + noise * np.sqrt(np.mean(f**2)) * generator.standard_normal(f.shape) for f in network.factors),
    )


def in_float64(network: KroneckerNetwork) -> KroneckerNetwork:
    return KroneckerNetwork(network.structure, tuple(factor.astype(np.float64) for factor in network.factors))


@settings(max_examples=60, deadline=None)
@given(structures(channels=3, rank=3), st.integers(0, 2**32 - 1))
def test_it_is_never_worse_than_its_start(structure: Structure, seed: int) -> None:
    """Any structure, weight and start, in float32: the error does not go up, and shape and dtype stay."""
    start = random_network(structure, seed)
    weight = np.random.default_rng(seed).standard_normal(structure.weight_shape).astype(np.float32)
    refined = refine(weight, start)
    assert relative_error(weight, refined.to_dense()) <= relative_error(weight, start.to_dense())
    assert refined.structure == structure
    assert all(factor.dtype == np.float32 for factor in refined.factors)


@pytest.mark.parametrize("structure", METHOD_STRUCTURES, ids=lambda s: f"{s.method}{len(s.factors)}")
def test_from_a_noisy_start_the_exact_network_is_found(structure: Structure) -> None:
    """A weight that has the structure is matched to rounding from factors that are 1 % off."""
    network = in_float64(random_network(structure, 0))
    weight = network.to_dense()
    start = noisy(network, 0.01)
    assert relative_error(weight, start.to_dense()) >= 1e-3
    assert relative_error(weight, refine(weight, start).to_dense()) <= 1e-6


@pytest.mark.parametrize("structure", METHOD_STRUCTURES, ids=lambda s: f"{s.method}{len(s.factors)}")
def test_where_it_ends_no_factor_alone_can_do_better(structure: Structure) -> None:
    """A least-squares solve for each factor, done densely by its Jacobian, gains next to nothing."""
    weight = np.random.default_rng(0).standard_normal(structure.weight_shape)
    refined = refine(weight, in_float64(random_network(structure, 1)))
    error = relative_error(weight, refined.to_dense())
    for k, factor in enumerate(refined.factors):
        units = np.eye(factor.size).reshape(factor.size, *factor.shape)
        columns = [
            KroneckerNetwork(structure, (*refined.factors[:k], unit, *refined.factors[k + 1 :])).to_dense().ravel()
            for unit in units
        ]
        best, *_ = np.linalg.lstsq(np.stack(columns, 1), weight.ravel())
        left = np.linalg.norm(np.stack(columns, 1) @ best - weight.ravel()) / np.linalg.norm(weight)
        assert left == pytest.approx(error, rel=1e-4)


def test_a_rank_axis_of_one_factor_alone_is_allowed() -> None:
    """It is summed over; the other factors still give the best fit, which is that without the axis."""
    lonely = Structure("gkpd", (2, 3), (FactorShape("ab", 4, 2, 1, 1), FactorShape("a", 2, 3, 3, 3)))
    plain = Structure("gkpd", (2,), (FactorShape("a", 4, 2, 1, 1), FactorShape("a", 2, 3, 3, 3)))
    weight = np.random.default_rng(0).standard_normal(lonely.weight_shape)
    errors = [
        relative_error(weight, refine(weight, in_float64(random_network(each, 0))).to_dense())
        for each in (lonely, plain)
    ]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)


def test_zero_weights_and_zero_factors_do_no_harm() -> None:
    """An all-zero weight is met exactly, and a start of zeros stays finite."""
    structure = METHOD_STRUCTURES[1]
    zero = np.zeros(structure.weight_shape)
    assert not refine(zero, in_float64(random_network(structure, 0))).to_dense().any()
    zeros = KroneckerNetwork(structure, tuple(np.zeros(structure.factor_shape(k)) for k in range(3)))
    weight = np.random.default_rng(0).standard_normal(structure.weight_shape)
    assert relative_error(weight, refine(weight, zeros).to_dense()) == 1


def test_a_twin_term_does_not_break_it() -> None:
    """Two equal terms make the normal matrix singular; the fit is still at least that of the start."""
    structure = METHOD_STRUCTURES[3]
    single = in_float64(random_network(structure, 0))
    twins = KroneckerNetwork(structure, tuple(np.repeat(factor[:1], 3, axis=0) for factor in single.factors))
    weight = single.to_dense()
    refined = refine(weight, twins)
    assert np.isfinite(refined.to_dense()).all()
    assert relative_error(weight, refined.to_dense()) <= 1


def test_the_best_of_several_starts_is_at_least_as_good_as_each() -> None:
    """Four random starts of a ring, and the one kept."""
    structure = METHOD_STRUCTURES[-2]
    weight = np.random.default_rng(0).standard_normal(structure.weight_shape)
    starts = [in_float64(random_network(structure, seed)) for seed in range(4)]
    best = relative_error(weight, refine_best(weight, starts).to_dense())
    assert best <= 1.001 * min(relative_error(weight, refine(weight, start).to_dense()) for start in starts)


def test_it_improves_on_the_recursive_svd() -> None:
    """For three factors the greedy SVD is not the best there is."""
    structure = sekron_structure([(4, 3, 1, 1), (2, 2, 3, 1), (1, 1, 1, 3)], (2, 2))
    weight = np.random.default_rng(0).standard_normal(structure.weight_shape)
    start = recursive_svd(weight, structure)
    greedy, refined = (relative_error(weight, each.to_dense()) for each in (start, refine(weight, start)))
    assert refined < 0.99 * greedy


def test_a_structure_that_does_not_fit_is_refused() -> None:
    """The error names both shapes."""
    with pytest.raises(UserInputError, match=r"makes a weight \(6, 6, 3, 3\), the given one is \(6, 6, 1, 1\)"):
        refine(np.ones((6, 6, 1, 1)), random_network(METHOD_STRUCTURES[0], 0))


def test_normal_equations_that_do_not_fit_are_refused_before_they_are_built() -> None:
    """The error says how many rank combinations there are and how many are taken."""
    sizes = (72, 1, 1, 1), (1, 72, 1, 1), (1, 1, 1, 1)
    assert refinable(tensor_ring_structure(sizes, (64, 64, 64)))
    structure = tensor_ring_structure(sizes, (65, 65, 65))
    assert not refinable(structure)
    with pytest.raises(UserInputError, match="4225 rank combinations, least squares takes at most 4096"):
        refine(np.ones((72, 72, 1, 1)), random_network(structure, 0))
