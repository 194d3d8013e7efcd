import math

import pytest
import torch
from torch import nn

from sample_models.cifar_resnet import CifarResNet
from sample_models.edsr import EDSR
from sample_models.seeding import seeded


def _resnet8() -> nn.Module:
    return CifarResNet(8)


def test_two_builds_are_equal_bit_by_bit_whatever_the_caller_s_random_state() -> None:
    first = seeded(_resnet8).state_dict()
    torch.manual_seed(123)
    second = seeded(_resnet8).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_random_state_of_the_caller_is_untouched() -> None:
    before = torch.get_rng_state()
    seeded(_resnet8)
    assert torch.equal(torch.get_rng_state(), before)


def test_model_comes_in_eval_mode_and_still_learns() -> None:
    model = seeded(_resnet8)
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_fixed_parameters_stay_as_the_architecture_made_them() -> None:
    model = seeded(lambda: EDSR(blocks=1, channels=4))
    torch.testing.assert_close(model.get_parameter("add_mean.weight").detach().flatten(1), torch.eye(3))


def test_weights_have_the_standard_deviation_that_the_gain_asks_for() -> None:
    weight = seeded(lambda: nn.Conv2d(64, 64, 3), gain=3).get_parameter("weight")
    assert weight.std().item() == pytest.approx(3 / math.sqrt(64 * 9), rel=0.02)


def test_branch_ends_are_scaled_by_their_number() -> None:
    """Three blocks: the last norm of each is 1/sqrt(3) of its neighbours in size."""
    model = seeded(_resnet8)
    assert model.get_parameter("layer2.0.bn1.weight").mean().item() == pytest.approx(1, abs=0.1)
    assert model.get_parameter("layer2.0.bn2.weight").mean().item() == pytest.approx(1 / math.sqrt(3), abs=0.06)


def test_norm_without_running_statistics_is_refused() -> None:
    with pytest.raises(ValueError, match="no running statistics"):
        seeded(lambda: nn.BatchNorm2d(4, track_running_stats=False))
