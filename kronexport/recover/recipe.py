"""How a factorized network is trained: everything that its result depends on beside the networks and the data."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from kronexport.errors import UserInputError

Optimizer = Literal["adamw", "muon", "sgd"]
Schedule = Literal["one-cycle", "cosine"]
Loss = Literal["auto", "kl", "mse", "l1"]
Augment = Literal["none", "shift", "shift-flip"]
Norms = Literal["auto", "update", "freeze"]
Keep = Literal["best", "last"]
TrainingPrecision = Literal["fp32", "bf16", "fp16"]

_CHOICES: dict[str, Any] = {
    "optimizer": Optimizer,
    "schedule": Schedule,
    "loss": Loss,
    "augment": Augment,
    "norms": Norms,
    "precision": TrainingPrecision,
    "keep": Keep,
}
_NUMBERS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "learning_rate": ("a finite number above 0", lambda value: 0 < value < math.inf),
    "temperature": ("a finite number above 0", lambda value: 0 < value < math.inf),
    "weight_decay": ("a finite number of at least 0", lambda value: 0 <= value < math.inf),
    "features": ("a finite number of at least 0", lambda value: 0 <= value < math.inf),
    "cross_entropy": ("a part, 0 to 1", lambda value: 0 <= value <= 1),
    "mixed": ("a part, 0 to 1", lambda value: 0 <= value <= 1),
    "ema": ("a decay, 0 to below 1, such as 0.999", lambda value: 0 <= value < 1),
}
_LEAST = {"epochs": 1, "block_epochs": 0, "batch": 1, "seed": 0}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train, by default without labels.

    Attributes:
        epochs: passes over the data.
        block_epochs: so many of them, the first, train each site alone: its output to that of its dense layer, no
            gradient from one site to another.
        batch: images a step, where the data is an array.
        optimizer: AdamW; SGD with Nesterov momentum; or Muon (Jordan et al., 2024), with steps of the size of
            AdamW's (Liu et al., 2025), for factors and filters as matrices, and AdamW for biases, norms and linear
            layers that are not factorized.
        learning_rate: the highest of the schedule.
        schedule: up over 30 % of the steps and down, and momentum, or AdamW's first decay, from 0.95 to 0.85 and back
            (Smith, Topin, 2019); or half a cosine down (Loshchilov, Hutter, 2017), at a momentum of 0.9 (Muon: 0.95).
        weight_decay: of all parameters.
        loss: of the network's outputs against the teacher's. ``kl``: T^2 KL(teacher || student) of softmaxes over
            axis 1 (Hinton, Vinyals, Dean, 2015); ``mse`` and ``l1``: in units of the variance, or the standard
            deviation, of the teacher's. ``auto``: ``kl`` for outputs [N, K] of two classes or
            more, ``mse`` for all others.
        temperature: T.
        cross_entropy: weight of the cross-entropy to the labels, the other loss having what is left of 1. 0: no labels.
        features: weight of the mean over the sites of ||y - y_dense||^2 / variance of y_dense.
        augment: random shifts by up to an eighth of an image, with reflection, and flips; of arrays alone.
        mixed: so large a part of the images is mixed with another at random (mixup: Zhang et al., 2018); of arrays
            alone, and without cross-entropy, since a mixed image has no label of its own.
        ema: decay of the exponential moving average of the weights, which is what is given back. 0: none.
        norms: whether BatchNorms go by the batch and go on averaging, or stay as they are; ``auto``: ``update`` from
            ``LEAST_FOR_NORMS`` images a batch on.
        precision: of the forward passes, by autocast.
        keep: the averaged weights after the epoch of the best score, where there is an evaluator, or after the last;
            the student as it came where no epoch scored more.
        stop_at: the score, by the evaluator, at which training ends.
        seed: of shuffling, augmentation and dropout.

    Raises:
        UserInputError: a value is none of these; the message names it.
    """

    epochs: int = 10
    block_epochs: int = 0
    batch: int = 128
    optimizer: Optimizer = "adamw"
    learning_rate: float = 1e-3
    schedule: Schedule = "one-cycle"
    weight_decay: float = 1e-4
    loss: Loss = "auto"
    temperature: float = 4.0
    cross_entropy: float = 0.0
    features: float = 0.0
    augment: Augment = "shift-flip"
    mixed: float = 0.0
    ema: float = 0.999
    norms: Norms = "auto"
    precision: TrainingPrecision = "fp32"
    keep: Keep = "best"
    stop_at: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in _CHOICES.items():
            choices = get_args(kind)
            self._check(name, f"one of {', '.join(choices)}", is_right=getattr(self, name) in choices)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            is_number = isinstance(value, int) and not isinstance(value, bool)
            self._check(name, f"a whole number of at least {least}", is_right=is_number and value >= least)
        for name, (expected, is_right) in _NUMBERS.items():
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            self._check(name, expected, is_right=is_number and is_right(value))
        stop = self.stop_at
        is_number = isinstance(stop, int | float) and not isinstance(stop, bool) and math.isfinite(stop)
        self._check("stop_at", "a finite score, or None", is_right=stop is None or is_number)
        few = self.block_epochs <= self.epochs
        self._check("block_epochs", f"at most epochs, which is {self.epochs}", is_right=few)
        alone = not (self.mixed and self.cross_entropy)
        self._check(
            "mixed",
            "0 where cross_entropy is above 0, or cross_entropy = 0: a mixed image has no label",
            is_right=alone,
        )

    def _check(self, name: str, expected: str, *, is_right: bool) -> None:
        if not is_right:
            raise UserInputError(f"recipe: {name}: got {getattr(self, name)!r}, expected {expected}")

    def to_json(self) -> dict[str, Any]:
        """Every field by its name, as JSON values."""
        return asdict(self)
