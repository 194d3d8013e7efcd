"""A model of a dynamic batch at each of its sizes: lowered against PyTorch, then the engine against golden outputs."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from kronexport.backends.base import Runner
from kronexport.records import BatchRange, InputSpec
from kronexport.verify.outputs import Outputs, compare, run_onnx, run_torch
from kronexport.verify.stages import require


def verify_lowered(
    batches: BatchRange, model: nn.Module, lowered: Path, images: NDArray[np.float32], tolerance: float
) -> None:
    """The lowered file with as many samples at once as each of ``batches`` against ``model`` with as many.

    Args:
        batches: the numbers of samples.
        model: in PyTorch, float32.
        lowered: standard operators in float, symbolic batch.
        images: golden inputs [K, C, H, W]; repeated where there are too few.
        tolerance: largest relative L2.

    Raises:
        VerificationError: they differ at one of them, which is named.
    """
    for size in batches.sizes:
        given = _samples(images, size)
        reference = run_torch(model, given, size)
        require(compare("lowered", f"factorized (batch of {size})", run_onnx(lowered, given), reference, tolerance))


def verify_engine(
    batches: BatchRange,
    runner: Runner,
    *,
    spec: InputSpec,
    images: NDArray[np.float32],
    outputs: Outputs,
    tolerance: float,
) -> None:
    """The engine with as many samples at once as each of ``batches`` against the golden ``outputs`` of ``images``.

    Raises:
        VerificationError: they differ at one of them, which is named.
    """
    for size in batches.sizes:
        reference = {name: _samples(output, size) for name, output in outputs.items()}
        found = runner.infer({spec.name: _samples(images, size)})
        require(compare("compiled", f"golden (batch of {size})", found, reference, tolerance))


def _samples(array: NDArray[Any], size: int) -> NDArray[Any]:
    """The first ``size`` samples, repeated from the start where there are fewer."""
    return np.ascontiguousarray(np.resize(array, (size, *array.shape[1:])))
