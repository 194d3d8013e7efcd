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
    """``inputs`` [D, n] and the outputs ``targets`` [F, n] that are wanted for them, float64."""

    inputs: Tensor
    targets: Tensor

    def moments(self) -> Moments:
        gram, cross = self.inputs @ self.inputs.T, self.targets @ self.inputs.T
        return Moments(gram, cross, self.targets.square().sum(dim=1), self.inputs.shape[1])

    def error(self, rows: Tensor) -> OutputError:
        moments = self.moments()
        return OutputError(moments.gram, moments.cross, moments.energy, rows)


def patches_of(weight: NDArray[np.float64], seed: int, count: int, noise: float = 0.0) -> Patches:
    """Correlated patches and the weight's outputs; ``noise`` sets x^ apart from x."""
    generator = np.random.default_rng(seed)
    rows = weight.reshape(len(weight), -1)
    mixing = generator.standard_normal((rows.shape[1], rows.shape[1])) * np.linspace(0.1, 1, rows.shape[1])
    patches = mixing @ generator.standard_normal((rows.shape[1], count))
    seen = patches + noise * generator.standard_normal(patches.shape)
    return Patches(torch.from_numpy(seen), torch.from_numpy(rows @ patches))


def random_rows(count: int, seed: int) -> Tensor:
    """Weights of output channels over two orders of magnitude."""
    return torch.from_numpy(10 ** np.random.default_rng(seed).uniform(-1, 1, count))
