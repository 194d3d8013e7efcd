from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from kronexport.errors import UserInputError
from kronexport.recover.own_loop import is_loop, trained_by
from tests.recover.samples import data, networks, same_weights


def nudged(student: nn.Module, _teacher: nn.Module) -> None:
    """In place, and left in train mode."""
    with torch.no_grad():
        for parameter in student.train().parameters():
            parameter.mul_(1.01)


def test_a_loop_trains_a_copy_in_place_or_gives_one_back() -> None:
    student, teacher = networks()
    before = {name: value.clone() for name, value in student.state_dict().items()}

    def giving_back(student: nn.Module, teacher: nn.Module) -> nn.Module:
        nudged(student, teacher)
        return student

    for loop in (nudged, giving_back):
        trained = trained_by(loop, student, teacher, "--recover net.py:train")
        assert not trained.training
        torch.testing.assert_close(trained.get_parameter("0.factors.0"), before["0.factors.0"] * 1.01)
        assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_a_loop_cannot_spoil_the_teacher() -> None:
    student, teacher = networks()
    expected = teacher(data(1))
    trained_by(lambda _student, own: nudged(own, own), student, teacher, "--recover net.py:train")
    assert torch.equal(teacher(data(1)), expected)


def with_another_layer(student: nn.Module, _teacher: nn.Module) -> nn.Module:
    student.set_submodule("3", nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False))
    return student


def with_one_layer_less(student: nn.Module, _teacher: nn.Module) -> nn.Module:
    assert isinstance(student, nn.Sequential)
    return student[:-1]


def with_other_sizes(student: nn.Module, _teacher: nn.Module) -> None:
    student.get_submodule("0").get_submodule("factors").register_parameter("0", nn.Parameter(torch.zeros(1, 2, 2)))


def with_nan(student: nn.Module, _teacher: nn.Module) -> None:
    student.get_parameter("0.factors.0").data.fill_(float("nan"))


def failing(_student: nn.Module, _teacher: nn.Module) -> None:
    raise RuntimeError("out of data")


@pytest.mark.parametrize(
    ("loop", "message"),
    [
        (with_another_layer, r"layer 3 is Conv2d\(.* after training, expected KroneckerConv2d"),
        (with_one_layer_less, r"layer 7 is missing after training, expected Linear"),
        (with_other_sizes, r"tensor 0.factors.0 is \[1, 2, 2\] after training, expected \[1, 4, 3, 1, 1\]"),
        (with_nan, r"0\.factors\.0"),
        (failing, r"raised RuntimeError: out of data, at .*test_own_loop.py"),
        (lambda _student, _teacher: 0.93, "the function returned a float"),
    ],
)
def test_what_a_loop_may_not_do_is_named(loop: Callable[..., Any], message: str) -> None:
    student, teacher = networks()
    with pytest.raises(UserInputError, match=f"^--recover net.py:train.*{message}"):
        trained_by(loop, student, teacher, "--recover net.py:train")
    assert same_weights(student, networks()[0])


def test_a_function_is_told_from_its_arguments() -> None:
    assert is_loop(nudged, "--recover f")
    assert not is_loop(list, "--recover f")
    assert not is_loop(lambda count=3, seed=0: [count, seed], "--recover f")
    with pytest.raises(UserInputError, match=r"takes \(only\); expected \(student, teacher\)"):
        is_loop(lambda only: only, "--recover f")
