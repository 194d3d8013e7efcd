"""``Descent``: what each optimizer moves, and how far."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from kronexport.recover.optimizers import Descent
from tests.recover.samples import FAST, networks

MUON = replace(FAST, optimizer="muon", learning_rate=0.01, schedule="cosine", weight_decay=0.0)
SCALER = torch.amp.GradScaler("cpu", enabled=False)
IMAGES = torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))


def moves(student: nn.Module, steps: int = 1) -> dict[str, Tensor]:
    """By how much each parameter changed in the last of ``steps``."""
    descent = Descent(student, MUON, 10 * steps)
    before: dict[str, Tensor] = {}
    for _ in range(steps):
        before = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
        descent.zero_grad()
        student(IMAGES).square().sum().backward()
        descent.step(SCALER)
    return {name: parameter.detach() - before[name] for name, parameter in student.named_parameters()}


def test_muon_moves_a_factor_alike_in_all_directions_of_its_matrix() -> None:
    """In units of 0.2 sqrt(longer side) of the rate (Liu), where Newton-Schulz leaves singular values near 1."""
    shapes = {"0.factors.0": (4, 3), "0.factors.1": (2, 9), "3.factors.0": (4, 4), "3.factors.1": (6, 9)}
    changed = moves(networks()[0])
    assert {name for name, move in changed.items() if move.ndim > 2} == set(shapes)
    for name, shape in shapes.items():
        sizes = torch.linalg.svdvals(changed[name].reshape(shape)) / (0.01 * 0.2 * max(shape) ** 0.5)
        assert 0.5 < sizes[-1] <= sizes[0] < 1.4, name


def test_a_scaled_step_leaves_out_what_has_no_gradient() -> None:
    """As in the epochs of sites alone that have no bias."""
    student = networks()[0]
    scaler = torch.amp.GradScaler("cpu", enabled=True)
    descent = Descent(student, MUON, 10)
    descent.zero_grad()
    factor = student.get_parameter("0.factors.0")
    before = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    scaler.scale(factor.square().sum()).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    descent.step(scaler)
    changed = {name for name, parameter in student.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {"0.factors.0"}


def test_vectors_and_what_is_empty_have_no_matrix() -> None:
    """However many axes they have."""
    student = nn.Module()
    for index, shape in enumerate([(8, 1, 1), (1, 1, 8), (4, 0, 3), (1, 4, 3, 1, 1)]):
        student.register_parameter(f"p{index}", nn.Parameter(torch.ones(shape)))
    descent = Descent(student, MUON, 10)
    descent.zero_grad()
    sum((one.square().sum() for one in student.parameters()), start=torch.zeros(())).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    descent.step(SCALER)
    moved = {name: torch.unique(1 - parameter.detach()) for name, parameter in student.named_parameters()}
    assert [len(moved[name]) for name in ("p0", "p1", "p2")] == [1, 1, 0]
    torch.testing.assert_close(moved["p0"], torch.tensor([0.01]))  # AdamW's step is the sign
    assert 0 < float(moved["p3"].max()) < 0.01


def test_what_has_no_matrix_is_moved_as_by_adamw() -> None:
    """Whose first step is the sign of the gradient."""
    others = {name: move for name, move in moves(networks()[0]).items() if move.ndim <= 2}
    assert others
    for move in others.values():
        moved = move[move != 0].abs()
        torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-2, atol=0)


def test_a_filter_that_lies_in_memory_channel_by_channel_is_moved_alike() -> None:
    """As ``channels_last`` has it."""
    plain, other = networks()[1], networks()[1]
    for parameter in other.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    for mine, theirs in zip(moves(plain, 2).values(), moves(other, 2).values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.05, atol=1e-4)  # Muon's matrices are bfloat16
