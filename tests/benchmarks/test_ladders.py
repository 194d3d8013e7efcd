import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.ladders import LADDERS, ladder_candidates, ladder_structures
from kronexport.factorize.decompose import decompose
from kronexport.records import InputSpec
from kronexport.survey.sites import survey

SHAPES = (12, 8, 3, 3), (16, 3, 3, 3)
"""The second as in a first layer."""


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", LADDERS)
def test_every_rung_can_be_decomposed_to(method: str, shape: tuple[int, int, int, int]) -> None:
    structures = list(ladder_structures(method, shape))
    assert len(structures) == len(set(structures)) > 1
    weight = np.random.default_rng(0).standard_normal(shape)
    for structure in structures[::7]:
        assert decompose(weight, structure).structure == structure
        assert structure.method == method


def test_candidates_are_dense_and_what_is_cheaper() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1)).eval()
    (site,) = survey(model, InputSpec("input", (1, 8, 5, 5))).sites
    ((dense, *others),) = ladder_candidates(model, (site,), "tucker2")
    assert (dense.params, dense.macs, dense.squared_error) == (site.params, site.macs, 0)
    assert others
    assert all(other.params < site.params and other.macs < site.macs for other in others)
    first = others[0]
    a, b = (first.structure or pytest.fail("dense twice")).ranks
    assert first.params == 12 * a + 8 * b + 9 * a * b + 12
    assert first.macs == 25 * (12 * a + 8 * b + 9 * a * b)
