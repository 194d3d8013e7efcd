"""``decompose``: one contract that every method keeps, and errors that say what to do."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import kronexport
from kronexport.errors import UserInputError
from kronexport.factorize.cp import cp_structure
from kronexport.factorize.decompose import METHODS, check_method, decompose
from kronexport.factorize.network import KroneckerNetwork, relative_error
from kronexport.factorize.tensor import Size4
from kronexport.records import Structure
from tests.strategies import METHOD_STRUCTURES, random_network

CLOSED_FORM = {"gkpd", "tucker", "tucker2", "tt"}
"""Methods that find a weight with the structure by SVDs alone, hence to rounding."""

each_structure = pytest.mark.parametrize("structure", METHOD_STRUCTURES, ids=lambda s: f"{s.method}{len(s.factors)}")

PRIME: dict[str, tuple[tuple[int, ...], list[Size4]]] = {
    "gkpd": ((2,), [(7, 1, 3, 1), (1, 5, 1, 3)]),
    "sekron": ((2, 2), [(7, 1, 1, 1), (1, 5, 3, 1), (1, 1, 1, 3)]),
    "cp": ((3,), []),
    "tucker": ((4, 3, 2, 2), []),
    "tucker2": ((4, 3), []),
    "tt": ((4, 5, 3), []),
    "tr": ((3, 3, 2), []),
}
"""Ranks and sizes for a weight [7, 5, 3, 3]."""

POINTWISE: dict[str, tuple[tuple[int, ...], list[Size4]]] = {
    "gkpd": ((2,), [(3, 2, 1, 1), (2, 3, 1, 1)]),
    "sekron": ((2, 2), [(3, 1, 1, 1), (2, 2, 1, 1), (1, 3, 1, 1)]),
    "cp": ((3,), []),
    "tucker": ((3, 3), []),
    "tucker2": ((3, 3), []),
    "tt": ((3,), []),
    "tr": ((2, 2, 3), []),
}
"""The same for a weight [6, 6, 1, 1]."""


def test_every_method_is_tried() -> None:
    """The structures and cases of this file leave none out."""
    assert {structure.method for structure in METHOD_STRUCTURES} == set(METHODS) == set(PRIME) == set(POINTWISE)


@each_structure
def test_a_weight_with_the_structure_is_recovered(structure: Structure) -> None:
    """To rounding by SVD, to what normal equations allow by alternating least squares."""
    network = random_network(structure, 0)
    exact = KroneckerNetwork(structure, tuple(factor.astype(np.float64) for factor in network.factors))
    weight = exact.to_dense()
    tolerance = 1e-12 if structure.method in CLOSED_FORM else 1e-6
    assert relative_error(weight, decompose(weight, structure).to_dense()) <= tolerance


@each_structure
def test_the_result_has_the_structure_asked_for_and_the_weights_dtype(structure: Structure) -> None:
    """Structure and dtype are kept, the weight is not touched, and the fit beats an all-zero one."""
    weight = np.random.default_rng(0).standard_normal(structure.weight_shape).astype(np.float32)
    before = weight.copy()
    network = decompose(weight, structure)
    assert network.structure == structure
    assert {factor.dtype for factor in network.factors} == {np.dtype(np.float32)}
    assert relative_error(weight, network.to_dense()) < 0.99
    np.testing.assert_array_equal(weight, before)


@each_structure
def test_float32_weights_are_factorized_in_float64(structure: Structure) -> None:
    """The error in float32 is that in float64 up to float32's rounding."""
    weight = np.random.default_rng(0).standard_normal(structure.weight_shape).astype(np.float32)
    errors = [relative_error(weight, decompose(w, structure).to_dense()) for w in (weight, weight.astype(np.float64))]
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)


@each_structure
def test_an_all_zero_weight_is_met_exactly(structure: Structure) -> None:
    """No division by zero anywhere."""
    assert not decompose(np.zeros(structure.weight_shape), structure).to_dense().any()


@each_structure
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_refused(structure: Structure, value: float) -> None:
    """Before any linear algebra sees it."""
    weight = np.ones(structure.weight_shape)
    weight[0, 0, 0, 0] = value
    with pytest.raises(UserInputError, match=f"{structure.method}: the weight holds 1 NaN or infinity"):
        decompose(weight, structure)


@each_structure
def test_another_shape_than_the_structures_is_refused(structure: Structure) -> None:
    """The error names both shapes."""
    with pytest.raises(UserInputError, match=r"makes a weight \(6, 6, 3, 3\), the given one is \(6, 7, 3, 3\)"):
        decompose(np.ones((6, 7, 3, 3)), structure)


@each_structure
def test_ranks_far_too_high_are_refused(structure: Structure) -> None:
    """The error names a rank and the highest."""
    ranks = tuple(10_000 for _ in structure.ranks)
    with pytest.raises(UserInputError, match=rf"{structure.method}: rank 10000 of axis '.' .* at most \d+ can be"):
        decompose(np.ones((6, 6, 3, 3)), Structure(structure.method, ranks, structure.factors))


@pytest.mark.parametrize(("shape", "cases"), [((7, 5, 3, 3), PRIME), ((6, 6, 1, 1), POINTWISE)])
@pytest.mark.parametrize("method", METHODS)
def test_prime_channels_and_pointwise_kernels(
    method: str, shape: Size4, cases: dict[str, tuple[tuple[int, ...], list[Size4]]]
) -> None:
    """By name, with the usual factors where there are any; the fit is that of a proper factorization."""
    weight = np.random.default_rng(0).standard_normal(shape)
    ranks, sizes = cases[method]
    network = decompose(weight, method, ranks, sizes)
    assert (network.structure.method, network.structure.ranks) == (method, ranks)
    assert relative_error(weight, network.to_dense()) < 0.95


def test_the_public_name_is_this_function() -> None:
    """``kronexport.decompose`` works by method and by structure alike."""
    weight = np.random.default_rng(0).standard_normal((6, 6, 3, 3))
    by_name = kronexport.decompose(weight, "tucker2", (3, 2))
    by_structure = kronexport.decompose(weight, by_name.structure)
    np.testing.assert_array_equal(by_name.to_dense(), by_structure.to_dense())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("svd", (2,)), "no method 'svd'; there are gkpd, sekron, cp, tucker, tucker2, tt, tr"),
        (("gkpd", (2,)), r"gkpd needs sizes, \(f, c, h, w\) of each factor, for a weight \(6, 6, 3, 3\)"),
        (("gkpd", (2,), [(6, 6, 3, 3)]), "gkpd: 1 factor sizes, expected 2"),
        (("tucker2", (2, 2), [(6, 1, 1, 1), (1, 6, 3, 3)]), "tucker2: 2 factor sizes, expected 3"),
        (("cp", ()), "0 ranks .* for 1 rank axes 'a'; give one rank an axis"),
        (("tt", (2, 2)), "2 ranks .* for 3 rank axes 'abc'"),
        (("cp", (0,)), "every size must be >= 1"),
        (("sekron", (2,), [(6, 6, 3, 3)]), r"1 factor\(s\), expected at least 2"),
        ((METHOD_STRUCTURES[0], (2,)), "a structure holds its ranks and sizes"),
        ((Structure("gkpd", (2, 2), METHOD_STRUCTURES[1].factors),), "GKPD: 3 factors .*, expected 2"),
        ((Structure("tt", (3,), METHOD_STRUCTURES[4].factors),), "3 factors of this method have a, ab, b"),
        ((Structure("mine", (3,), METHOD_STRUCTURES[4].factors),), "no method 'mine'"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    """Each error says what came and what was expected."""
    with pytest.raises(UserInputError, match=message):
        decompose(np.ones((6, 6, 3, 3)), *arguments)


def test_what_is_no_weight_is_refused() -> None:
    """A torch tensor, a matrix and integers, each with what to do instead."""
    with pytest.raises(UserInputError, match=r"is a Tensor, expected a numpy array; .* weight.detach\(\)"):
        decompose(torch.ones(6, 6, 3, 3), "cp", (2,))  # type: ignore[arg-type]  # the wrong type is the test
    with pytest.raises(UserInputError, match=r"is \(6, 6\), expected \[F, C, kh, kw\]; a linear layer's is"):
        decompose(np.ones((6, 6)), "cp", (2,))
    with pytest.raises(UserInputError, match="the weight is int64, expected floating point"):
        decompose(np.ones((6, 6, 3, 3), np.int64), "cp", (2,))


def test_a_weight_of_one_mode_is_refused() -> None:
    """[F, 1, 1, 1] is a vector: there is nothing to factorize."""
    with pytest.raises(UserInputError, match=r"1 factor\(s\), expected at least 2"):
        decompose(np.ones((6, 1, 1, 1)), "cp", (1,))


@pytest.mark.parametrize("ranks", [16, (8.0, 8), "88", None])
def test_ranks_that_are_no_integers(ranks: Any) -> None:
    with pytest.raises(UserInputError, match=r"ranks: got .*expected a sequence of integers"):
        decompose(np.ones((8, 8, 3, 3)), "tucker2", ranks)


@pytest.mark.parametrize("size", [4, (4, 4.0, 1, 1)])
def test_sizes_that_are_no_integers(size: Any) -> None:
    with pytest.raises(UserInputError, match=r"size: got .*expected a sequence of integers"):
        decompose(np.ones((8, 8, 3, 3)), "gkpd", (2,), [size, (2, 2, 3, 3)])


def test_what_least_squares_cannot_find_is_refused_before_any_weight() -> None:
    """Also in a plan file: the factors would be refused after all else was done."""
    large = cp_structure([(512, 1, 1, 1), (1, 512, 1, 1), (1, 1, 7, 7)], [5000])
    with pytest.raises(UserInputError, match="5000 rank combinations, least squares takes at most 4096"):
        check_method(large)


@each_structure
def test_a_structure_is_checked_without_its_weight(structure: Structure) -> None:
    """Ranks beyond use, rank axes of another method and too few ranks are refused, the structure itself is not."""
    check_method(structure)
    first, *others = structure.factors
    letters = "".join(sorted(structure.rank_sizes))
    for wrong in (
        replace(structure, ranks=(10_000, *structure.ranks[1:])),
        replace(structure, ranks=structure.ranks[1:]),
        replace(structure, factors=(replace(first, rank_axes=letters[::-1] + "z"), *others)),
        replace(structure, method="svd"),
    ):
        with pytest.raises(UserInputError):
            check_method(wrong)
