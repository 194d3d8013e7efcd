"""Second moments of patches are those of torch's unfold, whatever the geometry and the batches."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from kronexport.errors import UserInputError
from kronexport.factorize import moments
from kronexport.factorize.moments import Moments, add_batch
from kronexport.records import ConvGeometry
from tests.strategies import Layer, layers

GEOMETRY = ConvGeometry((3, 3), pads=(1, 1, 1, 1))


def batch(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs [N, 2, 6, 6] and targets [N, 4, 6, 6]."""
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = (torch.randn(count, channels, 6, 6, generator=generator) for channels in (2, 4))
    return inputs, targets


@settings(max_examples=60, deadline=None)
@given(layers())
def test_moments_predict_the_output_error(layer: Layer) -> None:
    """The error of any weight is that of the convolution itself, with stride, unequal padding and dilation."""
    generator = np.random.default_rng(0)
    weight = layer.network.to_dense().astype(np.float64)
    shape = (layer.batch, weight.shape[1], *layer.input_size)
    images = torch.from_numpy(generator.standard_normal(shape))
    other = torch.from_numpy(weight + generator.standard_normal(weight.shape))
    top, left, bottom, right = layer.geometry.pads
    padded = F.pad(images, (left, right, top, bottom))

    def conv(kernel: torch.Tensor) -> torch.Tensor:
        return F.conv2d(padded, kernel, None, layer.geometry.stride, 0, layer.geometry.dilation)

    wanted, given_ = conv(other), conv(torch.from_numpy(weight))
    found = add_batch(Moments.zero(len(weight), weight[0].size), images.float(), wanted.float(), layer.geometry)
    rows = torch.from_numpy(weight.reshape(len(weight), -1))
    gram, cross, energy = found.gram.double(), found.cross.double(), found.energy.double()
    predicted = (rows * (rows @ gram[0] - 2 * cross)).sum(dim=1) + energy
    direct = (wanted - given_).square().sum(dim=(0, 2, 3))
    scale = float(wanted.square().sum() + given_.square().sum())
    torch.testing.assert_close(predicted, direct, rtol=0, atol=1e-5 * scale + 1e-9)
    assert found.count == wanted[:, 0].numel()


def test_each_group_of_a_grouped_conv_has_moments_of_its_own() -> None:
    """The error of any weight is that of the grouped convolution itself."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 6, 5, 5, generator=generator)
    wanted = torch.randn(3, 8, 5, 5, generator=generator)
    weight = torch.randn(8, 3, 3, 3, generator=generator)
    found = add_batch(Moments.zero(8, 27, groups=2), images, wanted, GEOMETRY)
    rows = weight.reshape(2, 4, 27).double()
    seen = (rows @ found.gram).reshape(8, 27) - 2 * found.cross
    predicted = (rows.reshape(8, 27) * seen).sum(dim=1) + found.energy
    direct = (wanted - F.conv2d(images, weight, padding=1, groups=2)).double().square().sum(dim=(0, 2, 3))
    torch.testing.assert_close(predicted, direct, rtol=1e-5, atol=0)


def test_batches_of_any_size_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once, one by one, image by image and row by row within a batch, and as two halves."""
    inputs, targets = batch(5)
    whole = add_batch(Moments.zero(4, 18), inputs, targets, GEOMETRY)
    single = Moments.zero(4, 18)
    for x, y in zip(torch.split(inputs, 1), torch.split(targets, 1), strict=True):
        single = add_batch(single, x, y, GEOMETRY)
    pieces = []
    for limit in (4 * 18 * 36, 4 * 18 * 12, 1):
        monkeypatch.setattr(moments, "_CHUNK_BYTES", limit)
        assert all(
            4 * patches.numel() <= max(limit, 4 * 18 * 6) for patches, _ in moments._chunks(inputs, targets, GEOMETRY)
        )
        pieces.append(add_batch(Moments.zero(4, 18), inputs, targets, GEOMETRY))
    halves = add_batch(Moments.zero(4, 18), inputs[:2], targets[:2], GEOMETRY) + add_batch(
        Moments.zero(4, 18), inputs[2:], targets[2:], GEOMETRY
    )
    for other in (single, *pieces, halves):
        assert other.count == whole.count == 180
        for name in ("gram", "cross", "energy"):
            torch.testing.assert_close(getattr(other, name), getattr(whole, name), rtol=1e-5, atol=1e-4)


def test_channels_last_changes_nothing() -> None:
    inputs, targets = batch(3)
    plain = add_batch(Moments.zero(4, 18), inputs, targets, GEOMETRY)
    last = add_batch(
        Moments.zero(4, 18),
        inputs.to(memory_format=torch.channels_last),
        targets.to(memory_format=torch.channels_last),
        GEOMETRY,
    )
    torch.testing.assert_close(last.gram, plain.gram, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(last.cross, plain.cross, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("limit", [0, 1200])
def test_float32_sums_are_close_to_float64(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over many batches, with a mean far from zero; both kinds of accumulator."""
    monkeypatch.setattr(moments, "DOUBLE_LIMIT", limit)
    found, exact = Moments.zero(4, 18), torch.zeros(18, 18, dtype=torch.float64)
    for seed in range(50):
        inputs, targets = batch(4, seed)
        inputs += 3
        found = add_batch(found, inputs, targets, GEOMETRY)
        columns = F.unfold(inputs.double(), 3, padding=1).transpose(0, 1).reshape(18, -1)
        exact += columns @ columns.T
    assert found.gram.dtype == (torch.float64 if limit else torch.float32)
    assert float((found.gram - exact).norm() / exact.norm()) <= (1e-6 if limit else 1e-5)


def test_activations_that_are_no_numbers_are_refused() -> None:
    """The one place where NaN images, or weights that overflow, would enter the fit."""
    inputs, targets = batch(1)
    inputs[0, 0, 0, 0] = torch.nan
    with pytest.raises(UserInputError, match="activations are NaN or infinite"):
        add_batch(Moments.zero(4, 18), inputs, targets, GEOMETRY)
