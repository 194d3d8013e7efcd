"""Layers to fit: a weight, the patches that it sees, and their moments."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kronexport.factorize.als import OutputError
from kronexport.factorize.moments import Moments


@dataclass(frozen=True)
class Patches:
    """``inputs`` [groups, D, n] and the outputs ``targets`` [F, n] that are wanted for them, float64."""

    inputs: Tensor
    targets: Tensor

    def moments(self) -> Moments:
        groups, size, count = self.inputs.shape
        gram, cross = self.inputs @ self.inputs.mT, self.targets.reshape(groups, -1, count) @ self.inputs.mT
        return Moments(gram, cross.reshape(-1, size), self.targets.square().sum(dim=1), count)

    def error(self, rows: Tensor) -> OutputError:
        moments = self.moments()
        return OutputError(moments.gram, moments.cross, moments.energy, rows)


def patches_of(weight: NDArray[np.float64], seed: int, count: int, noise: float = 0.0, groups: int = 1) -> Patches:
    """Correlated patches and the weight's outputs; ``noise`` sets x^ apart from x."""
    generator = np.random.default_rng(seed)
    size = weight[0].size
    mixing = generator.standard_normal((groups, size, size)) * np.linspace(0.1, 1, size)
    patches = mixing @ generator.standard_normal((groups, size, count))
    seen = patches + noise * generator.standard_normal(patches.shape)
    wanted = weight.reshape(groups, -1, size) @ patches
    return Patches(torch.from_numpy(seen), torch.from_numpy(wanted.reshape(len(weight), count)))


def random_rows(count: int, seed: int) -> Tensor:
    """Weights of output channels over two orders of magnitude."""
    return torch.from_numpy(10 ** np.random.default_rng(seed).uniform(-1, 1, count))
