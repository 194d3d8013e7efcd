"""tensorly is the oracle: at equal rank our relative error is never more than 1 % above its own."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kronexport.factorize.decompose import decompose
from kronexport.factorize.network import relative_error
from kronexport.factorize.tensor import Size4

tensorly: Any = pytest.importorskip("tensorly", reason="tensorly, the oracle, is in the dev extra")
decomposition: Any = pytest.importorskip("tensorly.decomposition", reason="tensorly, the oracle, is in the dev extra")

pytestmark = pytest.mark.filterwarnings("ignore:Trying to compute SVD with n_eigenvecs:UserWarning")

MOST = 1.01
MODES: list[Size4] = [(16, 1, 1, 1), (1, 12, 1, 1), (1, 1, 3, 1), (1, 1, 1, 3)]


def low_rank_and_noise() -> NDArray[np.float64]:
    """Terms of falling weight and noise on top: singular values fall as those of trained convolutions do."""
    generator = np.random.default_rng(0)
    strength = np.arange(1, 25) ** -0.7
    matrices = [generator.standard_normal((size, 24)) for size in (16, 12, 3, 3)]
    smooth = np.einsum("r,fr,cr,hr,wr->fchw", strength, *matrices)
    return np.asarray(smooth + 0.5 * generator.standard_normal(smooth.shape))


WEIGHTS = {"normal": np.random.default_rng(1).standard_normal((16, 12, 3, 3)), "falling": low_rank_and_noise()}


@pytest.fixture(params=sorted(WEIGHTS))
def weight(request: pytest.FixtureRequest) -> NDArray[np.float64]:
    return WEIGHTS[str(request.param)]


@pytest.mark.parametrize("rank", [1, 4, 12, 32])
def test_cp(weight: NDArray[np.float64], rank: int) -> None:
    """Four modes, ALS from the SVD."""
    theirs = tensorly.cp_to_tensor(decomposition.parafac(weight, rank, init="svd", random_state=0))
    ours = decompose(weight, "cp", (rank,)).to_dense()
    assert relative_error(weight, ours) <= MOST * relative_error(weight, theirs)


@pytest.mark.parametrize("ranks", [(4, 4, 2, 2), (8, 6, 3, 2), (12, 9, 3, 3)])
def test_tucker(weight: NDArray[np.float64], ranks: tuple[int, ...]) -> None:
    """Four modes, HOOI."""
    theirs = tensorly.tucker_to_tensor(decomposition.tucker(weight, ranks))
    ours = decompose(weight, "tucker", ranks).to_dense()
    assert relative_error(weight, ours) <= MOST * relative_error(weight, theirs)


@pytest.mark.parametrize("ranks", [(4, 4), (8, 6), (12, 9)])
def test_tucker2(weight: NDArray[np.float64], ranks: tuple[int, ...]) -> None:
    """Channels only, HOOI."""
    (core, matrices), _ = decomposition.partial_tucker(weight, ranks, modes=(0, 1))
    theirs = tensorly.tenalg.multi_mode_dot(core, matrices, modes=(0, 1))
    ours = decompose(weight, "tucker2", ranks).to_dense()
    assert relative_error(weight, ours) <= MOST * relative_error(weight, theirs)


@pytest.mark.parametrize("ranks", [(4, 4, 4), (8, 10, 6), (12, 20, 9)])
def test_tensor_train(weight: NDArray[np.float64], ranks: tuple[int, ...]) -> None:
    """In the order F, kh, kw, C."""
    turned = weight.transpose(0, 2, 3, 1)
    theirs = tensorly.tt_to_tensor(decomposition.tensor_train(turned, (1, *ranks, 1)))
    ours = decompose(weight, "tt", ranks).to_dense()
    assert relative_error(weight, ours) <= MOST * relative_error(turned, theirs)


@pytest.mark.parametrize("ranks", [(2, 2, 2, 2), (4, 8, 4, 4), (5, 9, 6, 3)])
def test_tensor_ring(weight: NDArray[np.float64], ranks: tuple[int, ...]) -> None:
    """In the order F, C, kh, kw; tensorly's first rank is our last, which closes the ring."""
    theirs = tensorly.tr_to_tensor(decomposition.tensor_ring(weight, (ranks[-1], *ranks)))
    ours = decompose(weight, "tr", ranks, MODES).to_dense()
    assert relative_error(weight, ours) <= MOST * relative_error(weight, theirs)
