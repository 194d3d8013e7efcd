"""The search for channel orders: its gains are exact, it never gets worse, and an order is absorbed exactly."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from benchmarks.channel_permutation import MODES, Order, free_modes, permuted, search, swap_gains, truncation_errors
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.factorize.network import KroneckerNetwork
from kronexport.factorize.tensor import Size4, rearrange
from kronexport.records import Structure
from kronexport.survey.sites import layer_at
from sample_models.cifar_resnet import BasicBlock, CifarResNet
from sample_models.resnet import Bottleneck


def random_weight(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("held", [0, 1])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    "structure",
    [gkpd_structure((4, 3, 3, 1), (2, 2, 1, 3), 3), gkpd_structure((2, 1, 1, 3), (4, 6, 3, 1), 3)],
    ids=str,
)
def test_gain_of_a_swap_is_what_the_held_vectors_capture_more(structure: Structure, axis: int, held: int) -> None:
    """Against ||U^T M||^2 of the weight with the two channels swapped."""
    weight = random_weight(8, 6, 3, 3)

    def matrix(of: NDArray[Any]) -> NDArray[Any]:
        sides = rearrange(of.astype(np.float64), structure)
        return sides if held == 0 else sides.T

    held_vectors = np.linalg.svd(matrix(weight))[0][:, : structure.ranks[0]]

    def captured(of: NDArray[Any]) -> float:
        return float(np.sum(np.square(held_vectors.T @ matrix(of))))

    gains = swap_gains(weight, structure, axis, held)
    for s, t in np.ndindex(gains.shape):
        order = np.arange(len(gains))
        order[[s, t]] = order[[t, s]]
        expected = captured(np.take(weight, order, axis=axis)) - captured(weight)
        # a difference of sums of up to 300, in float32
        assert gains[s, t] == pytest.approx(expected, rel=1e-5, abs=3e-4)


@pytest.mark.parametrize(
    ("outer", "inner"), [((4, 1, 1, 3), (4, 8, 3, 1)), ((4, 4, 3, 1), (4, 4, 1, 3)), ((1, 4, 1, 3), (16, 4, 3, 1))]
)
def test_order_hidden_by_a_permutation_is_found(outer: Size4, inner: Size4) -> None:
    """A sum of Kronecker products, permuted, is one again, up to orders that change nothing."""
    random = np.random.default_rng(1)
    structure = gkpd_structure(outer, inner, 2)
    factors = tuple(random.standard_normal(structure.factor_shape(k)).astype(np.float32) for k in range(2))
    dense = KroneckerNetwork(structure, factors).to_dense()
    hidden = dense[random.permutation(dense.shape[0])][:, random.permutation(dense.shape[1])]
    assert truncation_errors(hidden, structure)[1] > 0.1
    found = search(hidden, structure, free_modes(structure), starts=20, seed=0)
    # squared errors are good to about 1e-6
    assert truncation_errors(permuted(hidden, found), structure)[1] == pytest.approx(0, abs=2e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rank=st.integers(1, 4), mode=st.sampled_from(sorted(MODES)))
def test_search_moves_only_what_it_may_and_never_gets_worse(seed: int, rank: int, mode: str) -> None:
    """The error told is that of the permuted weight, at most that of the given order; the other mode stays."""
    weight = np.random.default_rng(seed).standard_normal((8, 6, 3, 3)).astype(np.float32)
    structure = gkpd_structure((4, 3, 3, 1), (2, 2, 1, 3), rank)
    found = search(weight, structure, [mode], starts=2, seed=0)
    error = truncation_errors(permuted(weight, found), structure)[rank - 1]
    assert found.squared_error == pytest.approx(error, abs=1e-6)
    # the sums are rounded by the memory order of their terms
    assert found.squared_error <= truncation_errors(weight, structure)[rank - 1] + 1e-6
    kept = found.channels if mode == "filters" else found.filters
    assert kept.tolist() == list(range(len(kept)))
    assert sorted(found.filters) == list(range(8))
    assert sorted(found.channels) == list(range(6))


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        ((8, 1, 3, 1), (1, 6, 1, 3), ()),
        ((8, 6, 1, 1), (1, 1, 3, 3), ()),
        ((4, 1, 3, 1), (2, 6, 1, 3), ("filters",)),
        ((1, 3, 3, 1), (8, 2, 1, 3), ("channels",)),
        ((4, 3, 3, 1), (2, 2, 1, 3), ("filters", "channels")),
    ],
)
def test_error_depends_on_the_order_of_shared_modes_alone(
    outer: Size4, inner: Size4, expected: tuple[str, ...]
) -> None:
    structure, weight = gkpd_structure(outer, inner, 1), random_weight(8, 6, 3, 3)
    assert free_modes(structure) == expected
    given_error = truncation_errors(weight, structure)
    for mode, axis in MODES.items():
        order = np.random.default_rng(2).permutation(weight.shape[axis])
        other = truncation_errors(np.take(weight, order, axis=axis), structure)
        assert np.allclose(other, given_error, atol=2e-6) == (mode not in expected)


def permute_between(producer: nn.Conv2d, norm: nn.BatchNorm2d, consumer: nn.Conv2d, order: Order) -> None:
    """Reorders, in place, the channels that flow from one conv through its BatchNorm to the only conv that reads them.

    What leaves ``consumer`` stays the same: its columns move with the channels.
    """
    index = torch.from_numpy(order)
    with torch.no_grad():
        for tensor in (*producer.parameters(), *norm.parameters(), norm.running_mean, norm.running_var):
            if tensor is not None:
                tensor.copy_(tensor[index])
        consumer.weight.copy_(consumer.weight[:, index])


@torch.no_grad()
def test_order_is_absorbed_in_a_network() -> None:
    """Outputs stay when every block of a network has its inner channels permuted; statistics are no identity."""
    torch.manual_seed(0)
    model = CifarResNet(20).train()
    model(torch.randn(16, 3, 32, 32))
    permuted_model = copy.deepcopy(model.eval())
    images = torch.randn(2, 3, 32, 32)
    random = np.random.default_rng(3)
    for block in permuted_model.modules():
        if isinstance(block, BasicBlock):
            permute_between(block.conv1, block.bn1, block.conv2, random.permutation(block.conv1.out_channels))
    assert not torch.equal(layer_at(permuted_model, "layer1.0.conv1").weight, layer_at(model, "layer1.0.conv1").weight)
    torch.testing.assert_close(permuted_model(images), model(images), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_order_is_absorbed_in_a_bottleneck() -> None:
    """Both orders of the 3x3 conv are free: its input's from the conv before, its output's to the conv after."""
    torch.manual_seed(0)
    block = Bottleneck(16, 8, 1).train()
    images = torch.randn(4, 16, 6, 6)
    block(images)
    block.eval()
    expected = block(images)
    random = np.random.default_rng(4)
    permute_between(block.conv1, block.bn1, block.conv2, random.permutation(8))
    permute_between(block.conv2, block.bn2, block.conv3, random.permutation(8))
    torch.testing.assert_close(block(images), expected, rtol=1e-5, atol=1e-5)
