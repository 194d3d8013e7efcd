import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sample_models import train_cifar10
from sample_models.cifar_resnet import CifarResNet


def test_augmented_image_is_a_crop_of_the_reflected_image_or_of_its_mirror() -> None:
    images = torch.arange(3 * 64.0).reshape(1, 3, 8, 8).repeat(40, 1, 1, 1)
    out = train_cifar10.augment(images, torch.Generator().manual_seed(0))
    padded = nn.functional.pad(images[:1], (4, 4, 4, 4), mode="reflect")
    crops = [padded[0, :, i : i + 8, j : j + 8] for i in range(9) for j in range(9)]
    plain = [any(torch.equal(image, crop) for crop in crops) for image in out]
    mirrored = [any(torch.equal(image, crop.flip(2)) for crop in crops) for image in out]
    assert all(a or b for a, b in zip(plain, mirrored, strict=True))
    assert 0 < sum(mirrored) < len(out)


def test_loss_is_a_tenth_of_cross_entropy_where_student_and_teacher_agree() -> None:
    logits, labels = torch.randn(8, 10), torch.arange(8)
    loss = train_cifar10.distillation_loss(logits, logits, labels)
    torch.testing.assert_close(loss, 0.1 * nn.functional.cross_entropy(logits, labels))


def test_loss_adds_the_scaled_divergence_from_the_teacher() -> None:
    student, teacher, labels = torch.randn(8, 10), torch.randn(8, 10), torch.arange(8)
    p, q = (teacher / 4).softmax(1), (student / 4).softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    expected = 0.1 * nn.functional.cross_entropy(student, labels) + 0.9 * 16 * divergence
    torch.testing.assert_close(train_cifar10.distillation_loss(student, teacher, labels), expected)


def test_accuracy_is_the_percentage_of_right_answers() -> None:
    logits = torch.eye(10)[torch.arange(1000) % 10]
    labels = torch.where(torch.arange(1000) < 250, torch.arange(1000) % 10, (torch.arange(1000) + 1) % 10)
    assert train_cifar10.accuracy(nn.Identity(), logits, labels) == 25


@pytest.fixture
def args(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> argparse.Namespace:
    """A run of ResNet-8 on 256 random images, small ones: not every CPU is fast in bfloat16."""
    generator = torch.Generator().manual_seed(0)

    def load_split(_folder: Path, _split: str) -> tuple[Tensor, Tensor]:
        images = torch.randn(256, 3, 8, 8, generator=generator)
        return images, torch.arange(256) % 10

    monkeypatch.setattr(train_cifar10, "load_split", load_split)
    teacher = {f"module.{key}": value for key, value in CifarResNet(8).state_dict().items()}
    torch.save({"state_dict": teacher}, tmp_path / "teacher.th")
    return argparse.Namespace(
        data=tmp_path, teacher=tmp_path / "teacher.th", teacher_depth=8, depth=8, epochs=2, seed=0, out=tmp_path / "run"
    )


def test_interrupted_training_resumes_where_it_stopped(
    args: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = train_cifar10.Run.save

    def save_and_stop(run: train_cifar10.Run, checkpoint: Path, epoch: int) -> None:
        save(run, checkpoint, epoch)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_cifar10.Run, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train_cifar10.train(args)
    assert not (args.out / "weights.safetensors").exists()
    train_cifar10.train(args)
    rows = [json.loads(line) for line in (args.out / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert sorted(path.name for path in args.out.iterdir()) == ["checkpoint.pt", "log.jsonl", "weights.safetensors"]
    CifarResNet(8).load_state_dict(load_file(args.out / "weights.safetensors"))


def test_checkpoint_restores_every_state_that_training_moves(args: argparse.Namespace, tmp_path: Path) -> None:
    """The epoch after a resumed checkpoint ends with the weights of an uninterrupted run."""
    images, labels = torch.randn(256, 3, 8, 8), torch.arange(256) % 10
    run, resumed = train_cifar10.start(args, steps=2), train_cifar10.start(args, steps=2)
    run.train_epoch(images, labels)
    run.save(tmp_path / "checkpoint.pt", 1)
    assert resumed.resume(tmp_path / "checkpoint.pt") == 1
    assert resumed.train_epoch(images, labels) == pytest.approx(run.train_epoch(images, labels))
    for one, other in zip(run.student.parameters(), resumed.student.parameters(), strict=True):
        torch.testing.assert_close(one, other)
