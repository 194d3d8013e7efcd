"""Alternating least squares: each step is the least squares solution, and the whole never raises the error."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.linalg import block_diag

from kronexport.factorize import als, fitting, other_factors
from kronexport.factorize.als import OutputError, alternate, dense_rows
from kronexport.factorize.cp import cp_structure
from kronexport.factorize.decompose import decompose
from kronexport.factorize.gkpd import gkpd, gkpd_structure
from kronexport.factorize.network import KroneckerNetwork
from kronexport.records import FactorShape, Structure
from tests.factorize.samples import patches_of, random_rows
from tests.strategies import random_network, structures

CROSSED = Structure(
    "sekron", (2, 1), (FactorShape("a", 1, 2, 3, 3), FactorShape("ab", 1, 1, 1, 1), FactorShape("ab", 3, 1, 1, 1))
)
UNSHARED = Structure("own", (2, 3), (FactorShape("a", 2, 3, 1, 1), FactorShape("ab", 2, 2, 3, 1)))
"""Only the second factor has the rank axis b."""
APART = cp_structure([(4, 1, 1, 1), (1, 1, 3, 2), (1, 3, 1, 1)], (3,))
"""Each factor has filters or columns, so that those of the others are a product."""


def doubled(network: KroneckerNetwork) -> KroneckerNetwork:
    """The network in float64, so that rounding of the result hides nothing."""
    return KroneckerNetwork(network.structure, tuple(factor.astype(np.float64) for factor in network.factors))


def least_squares(network: KroneckerNetwork, k: int, error: OutputError) -> float:
    """The least E over factor ``k``, from one dense system: the weight is a matrix times the factor."""
    shape = network.structure.factor_shape(k)
    columns = []
    for unit in np.eye(math.prod(shape)):
        factors = (*network.factors[:k], unit.reshape(shape), *network.factors[k + 1 :])
        columns.append(KroneckerNetwork(network.structure, factors).to_dense().ravel())
    basis = np.stack(columns, axis=1)
    rows = np.repeat(error.rows.numpy(), error.gram.shape[1])[:, None]
    hessian = block_diag(*np.repeat(error.gram.numpy(), len(error.rows) // len(error.gram), axis=0))
    normal, wanted = basis.T @ (rows * (hessian @ basis)), basis.T @ (rows[:, 0] * error.cross.numpy().ravel())
    solution = np.linalg.lstsq(normal, wanted, rcond=1e-13)[0]
    return error(torch.from_numpy((basis @ solution).reshape(len(error.rows), -1)))


@settings(max_examples=40, deadline=None)
@example(CROSSED, "grouped", 1)
@given(structures(channels=3, rank=2), st.sampled_from(["even", "uneven", "grouped"]), st.integers(0, 99))
@example(UNSHARED, "uneven", 0)
@example(APART, "even", 0)
@example(APART, "uneven", 1)
@example(APART, "grouped", 1)
@example(UNSHARED, "grouped", 0)
@example(gkpd_structure((1, 2, 2, 5), (2, 1, 1, 1), 1), "grouped", 0)
def test_a_step_solves_the_least_squares_problem_of_its_factor(structure: Structure, rows_are: str, seed: int) -> None:
    """For every factor of every method, any weights of rows, and where every output channel is a group of its own.

    The inner iteration goes on to the end, which a fit spares itself.
    """
    if math.prod(structure.weight_shape) > 600:
        return
    network = doubled(random_network(structure, seed))
    weight = np.random.default_rng(seed).standard_normal(structure.weight_shape)
    rows = random_rows(len(weight), seed) if rows_are == "uneven" else torch.ones(len(weight), dtype=torch.float64)
    groups = len(weight) if rows_are == "grouped" else 1
    error = patches_of(weight, seed, 4 * weight[0].size + 4, noise=0.1, groups=groups).error(rows)
    factors = [torch.from_numpy(factor) for factor in network.factors]
    total = float(rows @ error.energy)
    for k in range(len(factors)):
        solved = [*factors]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(als, "_CG_STEPS", 500)
            patch.setattr(als, "_CG_TOLERANCE", 0.0)
            solved[k], promised = als._Frame(structure, k, error).solve(factors)
        stepped = KroneckerNetwork(structure, tuple(factor.numpy() for factor in solved))
        reached = error(dense_rows(stepped, torch.float64))
        assert promised == pytest.approx(reached, abs=1e-9 * total)
        assert reached <= error(dense_rows(network, torch.float64)) + 1e-9 * total
        assert reached == pytest.approx(least_squares(network, k, error), abs=1e-6 * total)


@pytest.mark.parametrize(("outer", "inner", "rank"), [((4, 6, 1, 1), (2, 1, 3, 1), 5), ((1, 6, 3, 1), (8, 1, 1, 1), 3)])
def test_all_ways_to_the_normal_matrix_agree(
    outer: tuple[int, int, int, int],
    inner: tuple[int, int, int, int],
    rank: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whole or as a Kronecker product, the preconditioner changes how fast a fit goes, not where it goes."""
    structure = gkpd_structure(outer, inner, rank)
    weight = np.random.default_rng(0).standard_normal(structure.weight_shape)
    error = patches_of(weight, 0, 200).error(random_rows(len(weight), 0))
    start = gkpd(weight, structure)
    monkeypatch.setattr(als, "MAX_SWEEPS", 400)
    whole = error(dense_rows(alternate(start, error, 1e-7), torch.float64))
    monkeypatch.setattr(als, "_DIRECT_LIMITS", (0, 0))
    monkeypatch.setattr(other_factors, "_RANKS_LIMIT", 0)
    assert error(dense_rows(alternate(start, error, 1e-7), torch.float64)) == pytest.approx(whole, rel=1e-2)
    assert whole < 0.8 * error(dense_rows(start, torch.float64))


MIXED = gkpd_structure((2, 4, 3, 1), (6, 1, 1, 3), 4)


@pytest.mark.parametrize(
    ("structure", "k", "order"), [(MIXED, 0, "pairs"), (MIXED, 1, "filter by filter"), (APART, 1, "apart")]
)
def test_every_order_of_summation_gives_the_normal_matrix(structure: Structure, k: int, order: str) -> None:
    """Against the sum over g written out: over pairs, filter by filter, and where filters and columns are apart."""
    weight = np.random.default_rng(0).standard_normal(structure.weight_shape)
    frame = als._Frame(structure, k, patches_of(weight, 0, 100).error(random_rows(len(weight), 0)))
    both_sides = "pairs" if frame._pairs_cost <= frame._filters_cost else "filter by filter"
    assert order == ("apart" if frame._others.are_apart else both_sides)
    others = [torch.from_numpy(factor) for factor in doubled(random_network(structure, 0)).factors]
    del others[k]
    contracted = frame._others.contracted(others)
    gram = frame._gram.reshape(frame._d, frame._m, frame._d, frame._m)
    literal = torch.einsum("rgm,dmen,sgn,g->dres", contracted, gram, contracted, frame._v)
    torch.testing.assert_close(
        frame._normal_matrix(others), literal.reshape(frame._d * frame._r, -1), rtol=1e-12, atol=1e-9
    )


def test_low_rank_pairs_reach_the_known_optimum() -> None:
    """Where D_-k = 1 the best W^ S^(1/2) is the truncated SVD of W S^(1/2): Eckart and Young."""
    structure = gkpd_structure((1, 5, 3, 1), (8, 1, 1, 1), 3)
    weight = np.random.default_rng(1).standard_normal(structure.weight_shape)
    patches = patches_of(weight, 1, 300)
    error = patches.error(torch.ones(8, dtype=torch.float64))
    energies, vectors = np.linalg.eigh(error.gram[0].numpy())
    values = np.linalg.svd(weight.reshape(8, -1) @ (vectors * np.sqrt(energies)), compute_uv=False)
    reached = error(dense_rows(alternate(gkpd(weight, structure), error), torch.float64))
    assert reached == pytest.approx(np.sum(values[3:] ** 2), rel=2e-2)


@settings(max_examples=25, deadline=None)
@given(structures(channels=3, rank=2), st.integers(0, 99), st.integers(1, 30))
def test_the_error_is_never_above_that_of_the_start(structure: Structure, seed: int, count: int) -> None:
    """Also where there are fewer patches than columns, and only the weakest ridge makes S definite."""
    start = random_network(structure, seed)
    weight = np.random.default_rng(seed).standard_normal(structure.weight_shape)
    moments = patches_of(weight, seed, count, noise=0.3).moments()
    original = torch.from_numpy(weight.reshape(len(weight), -1))
    error = fitting._output_error(moments, original, random_rows(len(weight), seed), fitting.RIDGES[-1])
    fitted = alternate(start, error)
    assert fitted.structure == structure
    assert all(factor.dtype == np.float32 for factor in fitted.factors)
    assert error(dense_rows(fitted, torch.float64)) <= error(dense_rows(start, torch.float64))


def test_an_exact_structure_is_found_from_a_wrong_start() -> None:
    """Data made by a network of the structure are fitted to rounding from a perturbed one."""
    structure = gkpd_structure((4, 3, 3, 1), (2, 4, 1, 3), 2)
    truth = doubled(random_network(structure, 0))
    start = KroneckerNetwork(
        structure,
        tuple(f + 0.2 * np.random.default_rng(7).standard_normal(f.shape) for f in truth.factors),
    )
    error = patches_of(truth.to_dense(), 0, 500).error(torch.ones(8, dtype=torch.float64))
    fitted = alternate(start, error)
    assert error(dense_rows(fitted, torch.float64)) <= 1e-5 * float(error.energy.sum())
    norms = [float(np.linalg.norm(factor)) for factor in fitted.factors]
    assert norms[0] == pytest.approx(norms[1], rel=1e-12)


@pytest.mark.parametrize("dead", ["weight", "rows", "images", "channel"])
def test_what_is_zero_stays_finite(dead: str) -> None:
    """An all-zero weight, weights of rows, moments, or one dead channel."""
    structure = gkpd_structure((2, 3, 3, 1), (2, 2, 1, 3), 2)
    weight = np.random.default_rng(0).standard_normal(structure.weight_shape)
    patches = patches_of(weight, 0, 80)
    rows = random_rows(4, 0)
    if dead == "rows":
        rows[:3] = 0
    if dead == "images":
        patches.inputs.zero_()
    if dead == "channel":
        patches.inputs[:, :9] = 0
    start = gkpd(0 * weight if dead == "weight" else weight, structure)
    error = patches.error(rows)
    fitted = alternate(start, error)
    assert all(np.isfinite(factor).all() for factor in fitted.factors)
    assert error(dense_rows(fitted, torch.float64)) <= error(dense_rows(start, torch.float64))


def test_float32_moments_fit_as_well_as_float64() -> None:
    """What large layers use: the error reached differs by less than a part in a thousand."""
    structure = gkpd_structure((4, 8, 3, 1), (2, 2, 1, 3), 6)
    weight = np.random.default_rng(0).standard_normal(structure.weight_shape)
    error = patches_of(weight, 0, 2000).error(random_rows(8, 0))
    single = OutputError(error.gram.float(), error.cross.float(), error.energy.float(), error.rows.float())
    start = gkpd(weight, structure)
    exact = error(dense_rows(alternate(start, error), torch.float64))
    assert error(dense_rows(alternate(start, single), torch.float64)) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("structure", [gkpd_structure((8, 1, 1, 1), (1, 6, 3, 3), 3), UNSHARED], ids=str)
def test_moments_that_rounding_left_indefinite_are_fitted(structure: Structure) -> None:
    """Constant images give such float32 sums of rank one in wide layers: an eigenvalue of minus a thousandth."""
    network = random_network(structure, 0)
    filters, *columns = structure.weight_shape
    size = math.prod(columns)
    patch = torch.ones(size)
    apart = torch.zeros(size)
    apart[:2] = torch.tensor([1.0, -1.0])
    gram = torch.outer(patch, patch) - 1e-3 * torch.outer(apart, apart)
    weight = dense_rows(random_network(structure, 1), torch.float32)
    energy = (weight @ gram * weight).sum(dim=1)
    error = OutputError(gram[None], weight @ gram, energy, torch.ones(filters))
    start = error(dense_rows(network, torch.float32))
    assert error(dense_rows(alternate(network, error), torch.float32)) < start


def test_large_layers_are_swept_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a fit that would take too long the first sweeps are done, and improve it all the same."""
    structure = cp_structure([(16, 1, 1, 1), (1, 1, 3, 3), (1, 16, 1, 1)], (12,))
    weight = np.random.default_rng(0).standard_normal(structure.weight_shape)
    rows = torch.ones(len(weight), dtype=torch.float64)
    error = patches_of(weight, 0, 600, noise=0.1, groups=1).error(rows)
    start = decompose(weight, structure)
    long = alternate(start, error, tolerance=0.0)
    monkeypatch.setattr(als, "_WORK_LIMIT", 1.0)
    short = alternate(start, error, tolerance=0.0)
    before, after_two, at_end = (error(dense_rows(network, error.gram.dtype)) for network in (start, short, long))
    assert before > after_two > at_end
