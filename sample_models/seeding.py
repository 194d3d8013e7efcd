"""Seeded weights for networks that have no trained ones: the same on every run, and with sane activations.

He-normal weights keep the second moment of the activations through a conv and its ReLU (He et al., ICCV 2015).
A sum ``x + branch(x)`` would double it, block after block, so the end of each of the n residual branches is
scaled by 1/sqrt(n): the whole network then grows by a small constant. BatchNorm gets statistics near 0 and 1 but
never equal to them, so that a mistake in folding it shows.
"""

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import nn

SEED = 0
RELU_GAIN = math.sqrt(2)


@runtime_checkable
class ResidualBlock(Protocol):
    """A block whose output is its input plus a branch; ``branch_end`` is the last module of that branch."""

    @property
    def branch_end(self) -> nn.Conv2d | nn.BatchNorm2d: ...


def seeded(architecture: Callable[[], nn.Module], gain: float = RELU_GAIN) -> nn.Module:
    """The network in eval mode with seeded weights; the caller's random state stays as it was.

    ``gain`` is the factor sqrt(fan_in) * std of conv and linear weights: sqrt(2) where a ReLU follows nearly every
    conv, 1 where the chain is mostly linear. Parameters with ``requires_grad=False`` are part of the architecture
    and stay.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        model = architecture()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.requires_grad:
                _seed_linear_map(module, gain)
            elif isinstance(module, nn.BatchNorm2d):
                _seed_norm(module)
        _scale_branches(model)
    return model.eval()


def _seed_linear_map(module: nn.Conv2d | nn.Linear, gain: float) -> None:
    fan_in = module.weight[0].numel()
    module.weight.normal_(0, gain / math.sqrt(fan_in))
    if module.bias is not None:
        module.bias.normal_(0, 0.05)


def _seed_norm(module: nn.BatchNorm2d) -> None:
    if module.running_mean is None or module.running_var is None:
        raise ValueError(f"{module}: no running statistics to seed; expected track_running_stats=True")
    module.weight.uniform_(0.8, 1.2)
    module.bias.normal_(0, 0.1)
    module.running_mean.normal_(0, 0.1)
    module.running_var.uniform_(0.8, 1.2)


def _scale_branches(model: nn.Module) -> None:
    ends = [module.branch_end for module in model.modules() if isinstance(module, ResidualBlock)]
    for end in ends:
        end.weight.mul_(1 / math.sqrt(len(ends)))
