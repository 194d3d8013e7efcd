"""All factors but one: where their filters and columns are apart, two small tensors are as good as all."""

import numpy as np
import pytest
import torch

from kronexport.factorize.other_factors import OtherFactors
from kronexport.records import Structure
from tests.strategies import METHOD_STRUCTURES, random_network

CP = [structure for structure in METHOD_STRUCTURES if structure.method == "cp"]


@pytest.mark.parametrize("structure", METHOD_STRUCTURES, ids=lambda structure: f"{structure.method} {structure}")
def test_filters_and_columns_that_are_apart_multiply_to_all_other_factors(structure: Structure) -> None:
    """T[r, g, m] = P[r, g] Q[r, m], for whatever factor is left out."""
    network = random_network(structure, 0)
    for k in range(len(structure.factors)):
        rest = OtherFactors(structure, k)
        others = [torch.from_numpy(factor) for index, factor in enumerate(network.factors) if index != k]
        whole = rest.contracted(others)
        if rest.are_apart:
            filters, columns = rest.apart(others)
            torch.testing.assert_close(filters[:, :, None] * columns[:, None, :], whole, rtol=1e-5, atol=1e-6)
        else:
            ranks = [np.linalg.matrix_rank(one.numpy(), tol=1e-4) for one in whole]
            assert max(ranks) > 1 or set("".join(factor.rank_axes for factor in structure.factors)) > set(
                structure.factors[k].rank_axes
            )


@pytest.mark.parametrize("structure", CP, ids=str)
def test_they_are_apart_in_cp_whatever_is_left_out(structure: Structure) -> None:
    assert all(OtherFactors(structure, k).are_apart for k in range(len(structure.factors)))


def test_they_are_apart_around_a_core_but_not_around_a_matrix_of_tucker2() -> None:
    """There the rank of the other matrix is summed between them."""
    structure = next(structure for structure in METHOD_STRUCTURES if structure.method == "tucker2")
    assert [OtherFactors(structure, k).are_apart for k in range(3)] == [False, False, True]
