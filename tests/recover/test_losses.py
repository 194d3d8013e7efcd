from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kronexport.errors import UserInputError
from kronexport.recover.losses import check_outputs, output_loss
from kronexport.recover.recipe import Loss, Recipe

GENERATOR = torch.Generator().manual_seed(0)
STUDENT, TEACHER = torch.randn(2, 8, 10, generator=GENERATOR)
IMAGE, WANTED = torch.randn(2, 4, 3, 6, 6, generator=GENERATOR)
LABELS = torch.arange(8)


def divergence(temperature: float) -> Tensor:
    """T^2 KL, by its definition."""
    p, q = (TEACHER / temperature).softmax(1), (STUDENT / temperature).softmax(1)
    mean: Tensor = (p * (p / q).log()).sum(1).mean()
    return temperature**2 * mean


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_logits_are_taught_by_the_divergence_of_warm_softmaxes(temperature: float) -> None:
    loss = output_loss([STUDENT], [TEACHER], None, Recipe(temperature=temperature))
    torch.testing.assert_close(loss, divergence(temperature))


def test_labels_take_their_part_of_the_loss() -> None:
    loss = output_loss([STUDENT], [TEACHER], LABELS, Recipe(cross_entropy=0.1))
    torch.testing.assert_close(loss, 0.1 * F.cross_entropy(STUDENT, LABELS) + 0.9 * divergence(4.0))
    torch.testing.assert_close(output_loss([STUDENT], [TEACHER], LABELS, Recipe()), divergence(4.0))


def test_images_are_taught_by_their_squared_error_in_units_of_the_variance() -> None:
    expected = (IMAGE - WANTED).square().mean() / WANTED.var(correction=0)
    torch.testing.assert_close(output_loss([IMAGE], [WANTED], None, Recipe()), expected)


def test_one_number_an_image_is_taught_as_images_are() -> None:
    """A softmax over one class is 1 whatever the output: its divergence would teach nothing."""
    one, other = STUDENT[:, :1], TEACHER[:, :1]
    expected = (one - other).square().mean() / other.var(correction=0)
    torch.testing.assert_close(output_loss([one], [other], None, Recipe()), expected)


@pytest.mark.parametrize("kind", ["kl", "mse", "l1"])
def test_what_agrees_has_no_loss_and_what_differs_has_one(kind: Loss) -> None:
    recipe = Recipe(loss=kind)
    assert output_loss([WANTED], [WANTED], None, recipe) == pytest.approx(0, abs=1e-6)
    assert output_loss([IMAGE], [WANTED], None, recipe) > 0.1


def test_all_outputs_count() -> None:
    alone = [output_loss([one], [other], None, Recipe()) for one, other in ((STUDENT, TEACHER), (IMAGE, WANTED))]
    torch.testing.assert_close(output_loss([STUDENT, IMAGE], [TEACHER, WANTED], None, Recipe()), sum(alone))


def test_outputs_that_cannot_be_compared_are_refused() -> None:
    check_outputs([STUDENT], [TEACHER], Recipe(cross_entropy=0.1))
    with pytest.raises(UserInputError, match=r"loss='kl' compares classes .* the shape \[8, 1\]"):
        check_outputs([STUDENT[:, :1]], [TEACHER[:, :1]], Recipe(loss="kl"))
    with pytest.raises(UserInputError, match=r"two classes or more as the first output, got \[8, 1\]"):
        check_outputs([STUDENT[:, :1]], [TEACHER[:, :1]], Recipe(cross_entropy=0.1))
    with pytest.raises(UserInputError, match=r"the student gives \[\[8, 10\]\], the teacher \[\[4, 3, 6, 6\]\]"):
        check_outputs([STUDENT], [WANTED], Recipe())
    with pytest.raises(UserInputError, match="the student gives no tensor"):
        check_outputs([], [], Recipe())
    with pytest.raises(UserInputError, match=r"needs logits \[N, K\]"):
        check_outputs([STUDENT[0]], [TEACHER[0]], replace(Recipe(), cross_entropy=0.1))
    with pytest.raises(UserInputError, match=r"needs logits \[N, K\].*got \[4, 3, 6, 6\]"):
        check_outputs([IMAGE], [WANTED], Recipe(cross_entropy=0.1))
