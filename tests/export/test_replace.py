"""Named sites become KroneckerConv2d or KroneckerLinear in a copy of the model."""

import numpy as np
import pytest
import torch
from torch import nn

from kronexport.errors import UserInputError
from kronexport.export.module import KroneckerConv2d, KroneckerLinear
from kronexport.export.replace import (
    factorized,
    kronecker_modules,
    site_weights,
    weight_errors,
    with_networks,
    without_factors,
)
from kronexport.factorize.calibrate import Calibration
from kronexport.factorize.gkpd import gkpd, gkpd_structure

STRUCTURE = gkpd_structure((3, 2, 3, 1), (2, 2, 1, 3), 2)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 6, 3), nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)))


STRUCTURES = {"0": STRUCTURE}


def silent(_done: int, _total: int) -> None:
    """No progress."""


def test_named_sites_are_replaced_and_the_others_stay(model: nn.Module) -> None:
    """Bias and weights of the rest are those of the model; it is in eval mode."""
    replaced = factorized(model, STRUCTURES, None, silent)
    assert list(kronecker_modules(replaced)) == ["0"]
    site = replaced.get_submodule("0")
    assert isinstance(site, KroneckerConv2d)
    assert site.structure == STRUCTURE
    assert site.site == "0"
    assert not replaced.training
    for name in ("1.1.weight", "1.1.bias", "1.0.weight", "0.bias"):
        torch.testing.assert_close(replaced.get_parameter(name), model.get_parameter(name), rtol=0, atol=0)


def test_without_images_the_factors_are_those_of_the_svd(model: nn.Module) -> None:
    site = factorized(model, STRUCTURES, None, silent).get_submodule("0")
    assert isinstance(site, KroneckerConv2d)
    weight = model.get_parameter("0.weight").detach().numpy()
    np.testing.assert_array_equal(site.network().to_dense(), gkpd(weight, STRUCTURE).to_dense())


def test_with_images_the_outputs_on_them_are_closer(model: nn.Module) -> None:
    """And each site is told of."""
    model.eval()
    images = np.random.default_rng(0).standard_normal((40, 4, 6, 6)).astype(np.float32).cumsum(axis=3)
    told: list[tuple[int, int]] = []
    fitted = factorized(model, STRUCTURES, Calibration(images, 1), lambda done, total: told.append((done, total)))
    x = torch.from_numpy(images)
    with torch.no_grad():
        near, far = ((net(x) - model(x)).norm() for net in (fitted, factorized(model, STRUCTURES, None, silent)))
    assert near < 0.8 * far
    assert told == [(0, 1)]


def test_a_grouped_conv_is_fitted_like_any_other() -> None:
    """Closer on the images than its weight's own factors, and exact where the rank is full."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(8, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2)).eval()
    structures = {
        "0": gkpd_structure((6, 1, 3, 1), (1, 4, 1, 3), 2),
        "2": gkpd_structure((2, 3, 3, 1), (2, 1, 1, 3), 6),
    }
    images = np.random.default_rng(0).standard_normal((40, 8, 8, 8)).astype(np.float32).cumsum(axis=3)
    by_weight, by_images = (factorized(model, structures, given, silent) for given in (None, Calibration(images, 1)))
    torch.testing.assert_close(by_weight.get_submodule("2").weight, model.get_parameter("2.weight"))
    x = torch.from_numpy(images)
    with torch.no_grad():
        near, far = ((net(x) - model(x)).norm() for net in (by_images, by_weight))
    assert near < 0.8 * far


def test_a_linear_layer_is_replaced_with_and_without_images() -> None:
    """Its error is that of the truncated SVD, and with images more, for the sake of the outputs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(96, 5)).eval()
    structures = STRUCTURES | {"2": gkpd_structure((5, 1, 1, 1), (1, 96, 1, 1), 2)}
    images = np.random.default_rng(0).standard_normal((8, 4, 6, 6)).astype(np.float32)
    weight = model.get_parameter("2.weight").detach().numpy()
    singular = np.linalg.svd(weight, compute_uv=False)
    least = np.linalg.norm(singular[2:]) / np.linalg.norm(singular)
    svd, fitted = (factorized(model, structures, calibration, silent) for calibration in (None, Calibration(images, 1)))
    assert weight_errors(model, svd)["2"] == pytest.approx(least, rel=1e-5)
    assert weight_errors(model, fitted)["2"] > least * (1 + 1e-3)
    for replaced in (svd, fitted):
        assert isinstance(replaced.get_submodule("2"), KroneckerLinear)
        assert replaced(torch.from_numpy(images)).shape == (8, 5)


def test_a_structure_that_does_not_suit_the_groups_is_refused_by_its_site(model: nn.Module) -> None:
    """Before anything is fitted."""
    model = nn.Sequential(nn.Conv2d(8, 6, 3, groups=2))
    with pytest.raises(UserInputError, match=r"^0: 3x2x3x1 \* 2x2x1x3 .* has 3 filters, expected a multiple of 2"):
        factorized(model, STRUCTURES, None, silent)


def test_the_model_itself_is_not_changed(model: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    replaced = factorized(model, STRUCTURES, None, silent)
    with torch.no_grad():
        for parameter in replaced.parameters():
            parameter.zero_()
    assert isinstance(model.get_submodule("0"), nn.Conv2d)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_site_weights_are_those_of_the_convs(model: nn.Module) -> None:
    weights = site_weights(model, ("0", "1.1"))
    assert [weights[name].shape for name in ("0", "1.1")] == [(6, 4, 3, 3), (4, 6, 1, 1)]
    np.testing.assert_array_equal(weights["0"], model.get_parameter("0.weight").detach().numpy())


def test_a_site_that_is_no_conv_is_refused(model: nn.Module) -> None:
    with pytest.raises(TypeError, match=r"1\.0: a BatchNorm2d, expected nn\.Conv2d or nn\.Linear"):
        site_weights(model, ("1.0",))


def test_weight_errors_are_relative_to_the_weight(model: nn.Module) -> None:
    """||W - W^|| / ||W||, for factorized sites only."""
    replaced = factorized(model, STRUCTURES, None, silent)
    site = replaced.get_submodule("0")
    assert isinstance(site, KroneckerConv2d)
    weight = model.get_parameter("0.weight").detach()
    distance = float((weight - site.to_dense().detach()).norm() / weight.norm())
    assert weight_errors(model, replaced) == {"0": pytest.approx(distance, rel=1e-5)}
    assert 0 < distance < 1
    assert weight_errors(replaced, replaced) == {}


def test_a_replaced_conv_keeps_its_type_and_mode(model: nn.Module) -> None:
    """What the network's values are does not matter."""
    network = gkpd(model.get_parameter("0.weight").detach().numpy(), STRUCTURE)
    site = with_networks(model.double(), {"0": network}).get_submodule("0")
    assert {parameter.dtype for parameter in site.parameters()} == {torch.float64}
    assert site.training


def test_a_network_of_another_weight_is_refused(model: nn.Module) -> None:
    """With both shapes."""
    network = gkpd(np.ones((6, 4, 3, 3), np.float32), STRUCTURE)
    with pytest.raises(
        UserInputError, match=r"1\.1: the factors make a weight \(6, 4, 3, 3\), the layer's is \(4, 6, 1, 1\)"
    ):
        with_networks(model, {"1.1": network})


def test_factors_are_taken_out_and_put_back(model: nn.Module) -> None:
    """The dense network computes the same; what is put back is the model that was."""
    replaced = factorized(model, STRUCTURES, None, silent)
    x = torch.randn(2, 4, 8, 8)
    expected = replaced(x)
    dense, networks = without_factors(replaced)
    assert list(networks) == ["0"]
    assert kronecker_modules(dense) == {}
    torch.testing.assert_close(dense(x), expected)
    again = with_networks(dense, networks)
    assert torch.equal(again(x), expected)
    assert weight_errors(dense, again) == {"0": 0.0}


def test_a_layer_under_two_names_is_one_dense_layer(model: nn.Module) -> None:
    replaced = factorized(model, STRUCTURES, None, silent)
    shared = nn.ModuleDict({"a": replaced.get_submodule("0"), "b": replaced})
    dense, networks = without_factors(shared)
    assert list(networks) == ["a"]
    assert dense.get_submodule("a") is dense.get_submodule("b.0")
