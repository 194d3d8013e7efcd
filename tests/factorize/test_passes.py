"""Passes that pause: what they hand over is what a plain forward computes, and they do not get in each other's way."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kronexport.errors import UserInputError
from kronexport.factorize.passes import at_input, at_output, passes

SITES = ("first", "second")


class Remembering(nn.Module):
    """Keeps a tensor in itself between two layers, as a hand-made skip connection does."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.first(x).relu()
        inner = self.second(input=self.kept)
        return inner + self.kept  # type: ignore[no-any-return]


class Branching(Remembering):
    """Which conv comes first depends on the image."""

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)) if x.mean() > 0 else self.first(x)  # type: ignore[no-any-return]


@pytest.fixture
def model() -> Remembering:
    torch.manual_seed(0)
    return Remembering().eval()


@pytest.fixture
def batches() -> list[Tensor]:
    return [torch.randn(2, 2, 5, 5) for _ in range(3)]


def test_inputs_and_outputs_are_those_of_a_plain_forward(model: Remembering, batches: list[Tensor]) -> None:
    """Each pass keeps its own state though all rest at the same site; the bias is taken off."""
    with (
        passes(model, batches, SITES, at_input) as given,
        passes(model, batches, SITES, at_output) as out,
    ):
        inputs = {site: [one.reach(site) for one in given] for site in SITES}
        outputs = {site: [one.reach(site) for one in out] for site in SITES}
        for index, images in enumerate(batches):
            hidden = model.first(images).relu()
            assert torch.equal(inputs["first"][index], images)
            assert torch.equal(inputs["second"][index], hidden)
            plain = nn.functional.conv2d(hidden, model.second.weight)
            torch.testing.assert_close(outputs["second"][index], plain, rtol=1e-5, atol=1e-6)


def test_a_weight_changed_at_a_site_is_the_one_that_the_pass_goes_on_with(
    model: Remembering, batches: list[Tensor]
) -> None:
    with passes(model, batches, SITES, at_input) as given:
        for one in given:
            one.reach("first")
        model.first.weight.mul_(2)
        for one, images in zip(given, batches, strict=True):
            assert torch.equal(one.reach("second"), model.first(images).relu())


def test_the_model_itself_gets_no_hooks_and_no_state(model: Remembering, batches: list[Tensor]) -> None:
    with passes(model, batches, SITES, at_input) as given:
        given[0].reach("first")
        given[0].reach("second")
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert not hasattr(model, "kept")


def test_gradients_are_off_until_the_end(model: Remembering, batches: list[Tensor]) -> None:
    with passes(model, batches, SITES, at_input) as given:
        assert not any(one.reach("first").requires_grad for one in given)
    assert torch.is_grad_enabled()


def test_images_that_take_different_ways_are_refused() -> None:
    positive, negative = torch.ones(1, 2, 5, 5), -torch.ones(1, 2, 5, 5)
    with passes(Branching().eval(), [positive, negative], SITES, at_input) as given:
        assert [one.reach("first").mean() for one in given] == [1, -1]
        given[0].reach("second")
        with pytest.raises(UserInputError, match=r"is not executed in the same order .* --exclude second"):
            given[1].reach("second")


def test_an_error_of_the_model_comes_to_the_caller(model: Remembering) -> None:
    wrong = [torch.zeros(1, 2, 5, 5), torch.zeros(1, 4, 5, 5)]
    with passes(model, wrong, SITES, at_output) as out:
        out[0].reach("first")
        with pytest.raises(UserInputError, match=r"--calibration: the model's forward: raised .* but got 4"):
            out[1].reach("first")


@pytest.mark.parametrize(
    "mode", [torch.enable_grad, torch.inference_mode, partial(torch.autocast, "cpu", torch.bfloat16)]
)
def test_modes_that_a_forward_enters_are_its_own(
    model: Remembering, batches: list[Tensor], mode: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The walker never sees them, a pass has them back when it goes on, and nothing is left of them."""
    monkeypatch.setattr(Remembering, "forward", mode()(Remembering.forward))
    with passes(model, batches, SITES, at_output) as out:
        before = modes()
        for site in SITES:
            values = [one.reach(site) for one in out]
            assert modes() == before
    assert modes() == (False, True, False)
    with torch.no_grad(), mode():
        alone = [model.second(model.first(images).relu()).float() for images in batches]
    for value, output in zip(values, alone, strict=True):
        bias = model.get_parameter("second.bias")[:, None, None]
        torch.testing.assert_close(value, output - bias, rtol=1e-5, atol=1e-6)


def modes() -> tuple[bool, bool, bool]:
    return torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
