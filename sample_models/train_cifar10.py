r"""Train a CIFAR ResNet on CIFAR-10 by distillation (Hinton, Vinyals, Dean, 2015): the recipe of ``sample:resnet20``.

    python -m sample_models.train_cifar10 --data cifar-10-batches-bin \
        --teacher resnet32.th --teacher-depth 32 --out run/

Loss: 0.1 cross-entropy + 0.9 T^2 KL(teacher || student) at T = 4. SGD with Nesterov momentum under a
one-cycle schedule, random flips and 4-pixel crops, bfloat16 autocast. A checkpoint is written after every
epoch, so the same command resumes; ``log.jsonl`` gains one line an epoch; the end is ``weights.safetensors``
and the float32 accuracy on all 10,000 test images.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # PyTorch's own name for it
from safetensors.torch import save_file
from torch import Tensor, nn

from sample_models import cifar10
from sample_models.cifar_resnet import CifarResNet

BATCH = 128
TEMPERATURE = 4.0
HARD_WEIGHT = 0.1
PEAK_LR = 0.15
WEIGHT_DECAY = 4e-4
FLIP_PROBABILITY = 0.5


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random horizontal flip and random crop after 4 pixels of reflection: [N, C, H, W] -> the same shape."""
    count, _, height, width = images.shape
    padded = F.pad(images, (4, 4, 4, 4), mode="reflect")
    top = torch.randint(0, 9, (count, 1), generator=generator)
    left = torch.randint(0, 9, (count, 1), generator=generator)
    rows = top + torch.arange(height)
    flipped = torch.rand(count, 1, generator=generator) < FLIP_PROBABILITY
    offsets = torch.where(flipped, torch.arange(width).flip(0), torch.arange(width))
    columns = left + offsets
    index = torch.arange(count).view(-1, 1, 1, 1)
    channels = torch.arange(padded.shape[1]).view(1, -1, 1, 1)
    return padded[index, channels, rows[:, None, :, None], columns[:, None, None, :]]


def distillation_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Mean over the batch; ``student`` and ``teacher`` are logits [N, K], ``labels`` [N]."""
    soft = F.kl_div(F.log_softmax(student / TEMPERATURE, 1), F.softmax(teacher / TEMPERATURE, 1), reduction="batchmean")
    return HARD_WEIGHT * F.cross_entropy(student, labels) + (1 - HARD_WEIGHT) * TEMPERATURE**2 * soft


@torch.inference_mode()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 in percent, float32."""
    model.eval()
    batches = zip(torch.split(images, 500), torch.split(labels, 500), strict=True)
    hits = sum(torch.count_nonzero(model(x).argmax(1) == y).item() for x, y in batches)
    return 100 * hits / len(labels)


def load_split(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Normalized images float32 [N, 3, 32, 32] (channels last in memory) and labels int64 [N]."""
    data = cifar10.read_split(folder, split)
    images = torch.from_numpy(np.ascontiguousarray(cifar10.normalize(data.pixels)))
    return images.to(memory_format=torch.channels_last), torch.from_numpy(data.labels)


def load_teacher(path: Path, depth: int) -> nn.Module:
    """The network whose logits are the soft targets, in bfloat16 and eval mode."""
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    teacher = CifarResNet(depth)
    teacher.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    return channels_last(teacher.eval()).bfloat16()


def channels_last(model: nn.Module) -> nn.Module:
    """The same module with its conv weights channels last in memory, the fast layout of CPU convs."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]  # absent in stubs


@dataclass(frozen=True)
class Run:
    """Everything that moves during training; a checkpoint holds all of it but the teacher."""

    student: nn.Module
    teacher: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    generator: torch.Generator

    def save(self, checkpoint: Path, epoch: int) -> None:
        """Write the state after ``epoch`` epochs, in one step."""
        state = {
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "epoch": epoch,
        }
        unfinished = checkpoint.with_suffix(".tmp")
        torch.save(state, unfinished)
        unfinished.replace(checkpoint)

    def resume(self, checkpoint: Path) -> int:
        """Take the state of a checkpoint; the number of epochs done."""
        saved = torch.load(checkpoint, weights_only=True)
        self.student.load_state_dict(saved["student"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.generator.set_state(saved["generator"])
        return int(saved["epoch"])

    def train_epoch(self, images: Tensor, labels: Tensor) -> float:
        """One pass over ``images`` [N, 3, 32, 32] in random order, without the last incomplete batch; the mean loss."""
        self.student.train()
        steps = len(images) // BATCH
        order = torch.randperm(len(images), generator=self.generator)
        return sum(self._step(images[index], labels[index]) for index in order[: steps * BATCH].view(steps, -1)) / steps

    def _step(self, images: Tensor, labels: Tensor) -> float:
        images = augment(images, self.generator).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.student(images).float()
        with torch.inference_mode():
            target = self.teacher(images.bfloat16()).float()
        # A tensor made in inference mode cannot be saved for the backward pass: its clone can.
        loss = distillation_loss(logits, target.clone(), labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.optimizer.step()
        self.schedule.step()
        return float(loss.detach())


def start(args: argparse.Namespace, steps: int) -> Run:
    """A run at its first epoch; ``steps`` are the batches of one epoch."""
    torch.manual_seed(args.seed)
    teacher = load_teacher(args.teacher, args.teacher_depth)
    student = channels_last(CifarResNet(args.depth))
    optimizer = torch.optim.SGD(student.parameters(), PEAK_LR, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        PEAK_LR,
        total_steps=args.epochs * steps,
        pct_start=0.2,
        anneal_strategy="linear",
        final_div_factor=1e3,
    )
    return Run(student, teacher, optimizer, schedule, torch.Generator().manual_seed(args.seed))


def train(args: argparse.Namespace) -> None:
    """Train from the last checkpoint in ``args.out``, or from the start, and write the weights there."""
    train_images, train_labels = load_split(args.data, "train")
    test_images, test_labels = load_split(args.data, "test")
    run = start(args, len(train_images) // BATCH)
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "checkpoint.pt"
    first = run.resume(checkpoint) if checkpoint.exists() else 0
    for epoch in range(first + 1, args.epochs + 1):
        started = time.monotonic()
        loss = run.train_epoch(train_images, train_labels)
        row = {
            "epoch": epoch,
            "loss": round(loss, 4),
            "test_accuracy": accuracy(run.student, test_images, test_labels),
            "seconds": round(time.monotonic() - started),
        }
        with (args.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        print(row, flush=True)
        run.save(checkpoint, epoch)
    save_weights(run.student, args.out / "weights.safetensors", {"depth": str(args.depth), "seed": str(args.seed)})
    print("test accuracy, 10,000 images, float32:", accuracy(run.student, test_images, test_labels))


def save_weights(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """The state dict as safetensors, written in one step."""
    unfinished = path.with_suffix(".tmp")
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, unfinished, metadata=metadata)
    unfinished.replace(path)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder cifar-10-batches-bin")
    parser.add_argument("--teacher", type=Path, required=True, help="state dict of the teacher, a CIFAR ResNet")
    parser.add_argument("--teacher-depth", type=int, required=True)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=34)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint, log and weights; resumes from it")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
