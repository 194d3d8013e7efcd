"""The stage ``verify``: each form of the network against the one before it, down to the compiled engine."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from kronexport.backends.base import Runner
from kronexport.errors import KronexportError, VerificationError
from kronexport.lower.simplify import SimplifierRefusedError, simplify
from kronexport.records import Check, InputSpec
from kronexport.verify.outputs import Outputs, compare, run_onnx, run_torch


@dataclass(frozen=True, slots=True)
class VerifiedModel:
    """``path`` is the model that ships and ``outputs`` its golden outputs by ONNX name.

    ``in_float`` is the simplified model that one in int8 or FP16 was made of.
    """

    path: Path
    outputs: Outputs
    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    in_float: Path | None = None


def verify_stages(
    dense: nn.Module,
    factorized: nn.Module,
    portable: Path,
    lowered: Path,
    images: NDArray[np.float32],
    *,
    batch: int,
    tolerance: float,
) -> VerifiedModel:
    """Compare all that runs without a backend, and simplify what ships.

    Args:
        dense: the user's model.
        factorized: its copy with KroneckerConv2d modules; an approximation, reported without a tolerance.
        portable: exported, with KroneckerConv nodes and their meaning as local functions.
        lowered: standard operators at the target's opset.
        images: golden inputs [K, C, H, W], K a multiple of ``batch``.
        batch: the models' static batch.
        tolerance: largest relative L2 from one stage to the next.

    Raises:
        VerificationError: a stage does not compute what the stage before it did, which is named.
    """
    factorized_outputs = run_torch(factorized, images, batch)
    portable_outputs = run_onnx(portable, images)
    lowered_outputs = run_onnx(lowered, images)
    checks = [
        compare("factorized", "dense", factorized_outputs, run_torch(dense, images, batch), None),
        require(compare("portable", "factorized", portable_outputs, factorized_outputs, tolerance)),
        require(compare("lowered", "portable", lowered_outputs, portable_outputs, tolerance)),
    ]
    simplified = _simplified(lowered, images, lowered_outputs, tolerance)
    return VerifiedModel(simplified.path, simplified.outputs, (*checks, *simplified.checks), simplified.notes)


def _simplified(
    lowered: Path, images: NDArray[np.float32], lowered_outputs: Outputs, tolerance: float
) -> VerifiedModel:
    """model.onnx beside ``lowered``: simplified if that worked and computes the same, else as it was, with a note."""
    path = lowered.with_name("model.onnx")
    try:
        simplify(lowered, path)
        outputs = run_onnx(path, images)
        check = compare("simplified", "lowered", outputs, lowered_outputs, tolerance)
        refusal = None if check.passed else f"onnxsim changed the outputs by relative L2 {check.rel_l2:.2e}"
    except (
        SimplifierRefusedError,
        KronexportError,
    ) as error:  # what does not run is left out too
        refusal = str(error)
    if refusal is None:
        return VerifiedModel(path, outputs, (check,), ())
    shutil.copyfile(lowered, path)
    outputs = run_onnx(path, images)
    check = require(compare("simplified", "lowered", outputs, lowered_outputs, tolerance))
    return VerifiedModel(path, outputs, (check,), (f"simplification left out: {refusal}",))


def verify_compiled(
    runner: Runner, spec: InputSpec, images: NDArray[np.float32], model: VerifiedModel, tolerance: float
) -> Check:
    """The compiled engine against the last stage before it.

    Raises:
        VerificationError: they differ by more than ``tolerance``.
    """
    outputs = runner.infer({spec.name: images})
    return require(compare("compiled", model.checks[-1].stage, outputs, model.outputs, tolerance))


def uncompiled(model: VerifiedModel) -> Check:
    """The check of an engine that can only be built on the device."""
    return Check("compiled", model.checks[-1].stage, None, None, None, None)


def require(check: Check) -> Check:
    """Raise VerificationError if the check failed; returns it otherwise."""
    if check.passed is False:
        raise VerificationError(
            f"{check.stage}: outputs differ from {check.against}'s by relative L2 {check.rel_l2:.2e} "
            f"(max abs {check.max_abs:.2e}), tolerance {check.tolerance:.0e}; nothing was shipped for this target"
        )
    return check
