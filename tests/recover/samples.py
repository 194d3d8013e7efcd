"""A small network, factorized, and images to train it on."""

import torch
from torch import Tensor, nn

from kronexport.export.replace import factorized
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.recover.recipe import Recipe
from tests.small_network import images, small

STRUCTURES = {"0": gkpd_structure((4, 3, 1, 1), (2, 1, 3, 3), 1), "3": gkpd_structure((4, 4, 1, 1), (3, 2, 3, 3), 1)}
FAST = Recipe(epochs=2, batch=16, optimizer="sgd", learning_rate=0.05, ema=0.5)


def networks() -> tuple[nn.Module, nn.Module]:
    """The student, far from its teacher, and the teacher."""
    teacher = small()
    return factorized(teacher, STRUCTURES, None, lambda _done, _total: None), teacher


def data(count: int = 48) -> Tensor:
    """[count, 3, 24, 24]."""
    return torch.from_numpy(images(count))


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Bit by bit, buffers too."""
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())
