"""The walk through a network: in order, with error feedback, whatever batch the model takes."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kronexport.errors import UserInputError
from kronexport.factorize import calibrate
from kronexport.factorize.calibrate import Calibration, fit_network, image_limit
from kronexport.factorize.decompose import decompose
from kronexport.factorize.following import row_weights
from kronexport.factorize.gkpd import gkpd, gkpd_structure
from kronexport.factorize.network import KroneckerNetwork
from kronexport.factorize.passes import passes
from kronexport.records import ConvGeometry, Site, Structure
from kronexport.survey.sites import layer_at, layer_weight

STRUCTURES = {
    "0": gkpd_structure((2, 3, 3, 1), (4, 1, 1, 3), 2),
    "3": gkpd_structure((1, 8, 1, 1), (6, 1, 3, 3), 3),
    "5": gkpd_structure((5, 2, 1, 1), (1, 3, 1, 1), 2),
}


def images(count: int, size: int = 10) -> NDArray[np.float32]:
    """Smooth ones, so that neighbouring pixels are correlated."""
    noise = np.random.default_rng(0).standard_normal((count, 3, size + 4, size + 4))
    smooth = sum(noise[:, :, i : i + size, j : j + size] for i in range(5) for j in range(5))
    return np.asarray(smooth / 5, np.float32)


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding="same", bias=False),
        norm,
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 6, 3, stride=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 5, 1),
    )
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]  # it tracks them
    return layers.eval()


class FixedBatch(nn.Module):
    """Takes two images at a time and no other number."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.reshape(2, 3, 10, 10)).clone()  # type: ignore[no-any-return]


class MixedBatch(FixedBatch):
    """Takes any number, but an image's output depends on the others."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) / x.std()  # type: ignore[no-any-return]


def output_error(model: nn.Module, networks: dict[str, KroneckerNetwork], at: NDArray[np.float32]) -> float:
    """Relative distance of the outputs with the networks' weights put in."""
    x = torch.from_numpy(at)
    kept = {site: model.get_submodule(site).weight for site in networks}
    with torch.no_grad():
        wanted = model(x)
        for site, network in networks.items():
            model.get_submodule(site).weight = nn.Parameter(torch.from_numpy(network.to_dense()))
        reached = model(x)
    for site, weight in kept.items():
        model.get_submodule(site).weight = weight
    return float((reached - wanted).norm() / wanted.norm())


def fitted(model: nn.Module, structures: dict[str, Structure], count: int = 96, batch: int = 1) -> Any:
    return fit_network(model, structures, Calibration(images(count), batch), lambda _done, _total: None)


def test_the_network_is_better_than_by_svd_on_other_images(model: nn.Sequential) -> None:
    """And the model itself is as before."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    networks = fitted(model, STRUCTURES)
    others = images(200)[96:]
    svd = {site: gkpd(model.get_submodule(site).weight.detach().numpy(), s) for site, s in STRUCTURES.items()}  # type: ignore[operator]
    assert output_error(model, networks, others) < 0.7 * output_error(model, svd, others)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_later_sites_repair_earlier_ones(model: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> None:
    """With inputs from the original network instead of the compressed one, the outputs are worse."""
    with_feedback = output_error(model, fitted(model, STRUCTURES), images(96))

    def unspoilt(_model: nn.Module, *others: Any) -> Any:
        return passes(copy.deepcopy(model), *others)

    monkeypatch.setattr(calibrate, "passes", unspoilt)
    assert with_feedback < output_error(model, fitted(model, STRUCTURES), images(96))


@pytest.mark.parametrize("wrapper", [FixedBatch, MixedBatch])
def test_a_model_that_ties_images_together_gets_its_own_batch(
    model: nn.Sequential, wrapper: type[FixedBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the batch that the user gave is tried for the fit, and odd images are left out."""
    wrapped = wrapper(model).eval()
    structures = {f"model.{site}": structure for site, structure in STRUCTURES.items()}
    walked = []

    def noted(network: nn.Module, batches: list[Tensor], *others: Any) -> Any:
        walked.append([len(batch) for batch in batches])
        return passes(network, batches, *others)

    monkeypatch.setattr(calibrate, "passes", noted)
    monkeypatch.setattr(calibrate, "_BATCH", 8)
    networks = fitted(wrapped, structures, count=33, batch=2)
    assert walked == [[2] * 16] * 2
    assert set(networks) == set(structures)


def test_large_batches_give_what_single_images_give(model: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of a batch changes which half an image is in, and no more."""
    large = output_error(model, fitted(model, STRUCTURES), images(96))
    monkeypatch.setattr(calibrate, "_BATCH", 1)
    assert output_error(model, fitted(model, STRUCTURES), images(96)) == pytest.approx(large, rel=0.1)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_images_are_enough(model: nn.Sequential, count: int) -> None:
    """One image alone too: all values are finite and the outputs on it no worse than by SVD."""
    networks = fitted(model, STRUCTURES, count=count)
    svd = {site: gkpd(model.get_submodule(site).weight.detach().numpy(), s) for site, s in STRUCTURES.items()}  # type: ignore[operator]
    assert output_error(model, networks, images(count)) <= output_error(model, svd, images(count))


def test_images_fewer_than_one_batch_are_repeated(model: nn.Sequential) -> None:
    structure = {"model.0": STRUCTURES["0"]}
    assert fitted(FixedBatch(model).eval(), structure, count=1, batch=2)["model.0"].structure == STRUCTURES["0"]


def test_no_more_than_the_limit_is_used(model: nn.Sequential) -> None:
    structures = {"0": STRUCTURES["0"]}
    first, again = (
        fit_network(model, structures, Calibration(images(count), 1, limit=10), lambda _done, _total: None)
        for count in (10, 40)
    )
    np.testing.assert_array_equal(first["0"].to_dense(), again["0"].to_dense())


@pytest.mark.parametrize(("size", "limit"), [(8, 512), (256, 51), (10_000, 1)])
def test_large_activations_take_fewer_images(size: int, limit: int) -> None:
    """The widest site decides, by what it gets and gives."""
    site = Site(
        "0", 1, 16, 64, ConvGeometry((1, 1)), (size, size), (size, size), has_bias=True, params=1, macs=1, share=1.0
    )
    assert image_limit([replace(site, in_channels=1, out_channels=1), site]) == limit


@pytest.mark.parametrize(
    ("count", "batch", "limit", "used"),
    [(600, 1, 512, 512), (7, 2, 512, 6), (3, 8, 512, 3), (10, 10, 512, 10), (100, 32, 10, 32)],
)
def test_the_number_of_images_used_is_known(count: int, batch: int, limit: int, used: int) -> None:
    """No more than the limit, in whole batches, but one at least; repeated images count once."""
    assert Calibration(np.zeros((count, 1, 1, 1), np.float32), batch, limit).used == used


def test_progress_counts_sites(model: nn.Sequential) -> None:
    told: list[tuple[int, int]] = []
    fit_network(model, STRUCTURES, Calibration(images(4), 1), lambda done, total: told.append((done, total)))
    assert told == [(0, 3), (1, 3), (2, 3)]


def test_constant_images_are_fitted(model: nn.Sequential) -> None:
    """Moments of rank one: the ridge holds the rest near the weight."""
    constant = Calibration(np.ones((8, 3, 10, 10), np.float32), 1)
    networks = fit_network(model, STRUCTURES, constant, lambda _done, _total: None)
    assert all(np.isfinite(factor).all() for network in networks.values() for factor in network.factors)


def test_a_network_that_overflows_is_refused(model: nn.Sequential) -> None:
    overflowing = Calibration(np.full((2, 3, 10, 10), 1e30, np.float32), 1)
    with pytest.raises(UserInputError, match=r"^0: calibration: activations are NaN or infinite"):
        fit_network(model, STRUCTURES, overflowing, lambda _done, _total: None)


def test_a_model_that_raises_on_the_images_is_refused(model: nn.Sequential) -> None:
    """With what it raised."""
    wrong = Calibration(np.ones((8, 4, 10, 10), np.float32), 1)
    with pytest.raises(UserInputError, match=r"--calibration: the model's forward: raised RuntimeError: .*channels"):
        fit_network(model, STRUCTURES, wrong, lambda _done, _total: None)


def test_a_rank_that_a_layer_cannot_have_is_refused_by_its_name(model: nn.Sequential) -> None:
    outer, inner = (factor.size for factor in STRUCTURES["3"].factors)
    with pytest.raises(UserInputError, match=r"^3: .*rank"):
        fitted(model, {"3": gkpd_structure(outer, inner, 10_000)})


@pytest.mark.parametrize("output", ["indices", "mask", "number"])
def test_outputs_need_not_be_floats_of_a_batch(output: str, model: nn.Sequential) -> None:
    """As of a segmentation that ends in its classes."""

    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.body(x)
            return {"indices": y.argmax(1), "mask": y > 0, "number": y.mean()}[output]

    structures = {f"body.{site}": structure for site, structure in STRUCTURES.items()}
    found = fit_network(Ends().eval(), structures, Calibration(images(4), 1), lambda _done, _total: None)
    assert list(found) == list(structures)


def test_a_forward_without_tensors_is_refused(model: nn.Sequential) -> None:
    class Nothing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model

        def forward(self, x: torch.Tensor) -> float:
            return float(self.body(x).mean())

    structures = {f"body.{site}": structure for site, structure in STRUCTURES.items()}
    with pytest.raises(UserInputError, match="the model's forward gives no tensor"):
        fit_network(Nothing().eval(), structures, Calibration(images(4), 1), lambda _done, _total: None)


def test_rows_count_as_the_following_norm_lets_them_through(model: nn.Sequential) -> None:
    """gamma^2 / (var + eps) after the first conv; ones where a ReLU or nothing follows."""
    rows = row_weights(model, ["0", "3", "5"], torch.from_numpy(images(1)))
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    torch.testing.assert_close(rows["0"], norm.weight.detach() ** 2 / (norm.running_var + norm.eps))
    assert rows["3"].tolist() == [1] * 6
    assert rows["5"].tolist() == [1] * 5


def test_rows_of_a_linear_layer_count_as_a_norm_of_its_features_does() -> None:
    """A BatchNorm after a linear layer on pixels has the rows of pixels as its channels, and counts for nothing."""
    norm = nn.BatchNorm1d(8)
    nn.init.uniform_(norm.weight)
    rows = row_weights(nn.Sequential(nn.Linear(6, 8), norm).eval(), ["0"], torch.ones(2, 6))
    torch.testing.assert_close(rows["0"], norm.weight.detach() ** 2 / (1 + 1e-5))
    on_pixels = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm2d(5)).eval()
    assert row_weights(on_pixels, ["0"], torch.ones(2, 5, 7, 6))["0"].tolist() == [1] * 8


class PreActivation(nn.Module):
    """What the conv gives goes through the norm, and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        nn.init.uniform_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        past: Tensor = y + self.norm(y).relu()
        return past


def test_what_goes_past_the_norm_counts_in_full() -> None:
    assert row_weights(PreActivation().eval(), ["conv"], torch.ones(1, 3, 5, 5))["conv"].tolist() == [1] * 8


def test_a_norm_without_gamma_counts_its_variance_only() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False)).eval()
    torch.testing.assert_close(row_weights(model, ["0"], torch.ones(1, 3, 5, 5))["0"], torch.full((8,), 1 / (1 + 1e-5)))


def test_a_linear_layer_is_fitted_as_the_1x1_conv_that_it_is() -> None:
    """The same factors, whether it stands on pixels or on features."""
    conv = nn.Conv2d(6, 8, 1, bias=False)
    linear = nn.Linear(6, 8)
    with torch.no_grad():
        linear.weight.copy_(conv.weight[:, :, 0, 0])
        nn.init.zeros_(linear.bias)
    structure = {"0": gkpd_structure((8, 1, 1, 1), (1, 6, 1, 1), 3)}
    pixels = np.random.default_rng(0).standard_normal((400, 6, 1, 1)).astype(np.float32)
    pixels *= np.array([3, 0.1, 1, 0.1, 2, 0.1], np.float32)[:, None, None]
    found = [
        fit_network(nn.Sequential(layer).eval(), structure, Calibration(x, 1), lambda _done, _total: None)["0"]
        for layer, x in ((conv, pixels), (linear, pixels[:, :, 0, 0]), (linear, pixels.transpose(0, 2, 3, 1)))
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other.to_dense(), found[0].to_dense(), rtol=1e-4, atol=1e-5)  # two float32 kernels
    assert not np.allclose(found[0].to_dense(), decompose(conv.weight.detach().numpy(), structure["0"]).to_dense())


def test_a_layer_that_is_too_wide_keeps_the_factors_of_its_weight(
    model: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those behind it are fitted to what it gives then."""
    monkeypatch.setattr(calibrate, "COLUMN_LIMIT", 3 * 9)
    for site, network in fitted(model, STRUCTURES, count=8).items():
        weight = layer_weight(layer_at(model, site)).numpy()
        same = np.array_equal(network.to_dense(), gkpd(weight, STRUCTURES[site]).to_dense())
        assert same == (weight[0].size > 3 * 9), site


def test_rows_are_weighed_in_a_long_chain_whose_activations_come_and_go() -> None:
    """Python gives the id of a tensor that is gone to a later one."""
    blocks = [part for _ in range(8) for part in (nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())]
    model = nn.Sequential(*blocks).eval()
    for part in blocks[1::3]:
        nn.init.constant_(part.weight, 3.0)  # type: ignore[arg-type]  # a norm's
    sites = [str(index) for index in range(0, 24, 3)]
    for _ in range(3):
        rows = row_weights(model, sites, torch.ones(1, 4, 3, 3))
        for site in sites:
            torch.testing.assert_close(rows[site], torch.full((4,), 9 / (1 + 1e-5)))
