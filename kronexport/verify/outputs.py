"""Outputs of one stage against those of the stage before: where accuracy dies, it is seen here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils._pytree import tree_leaves

from kronexport import agent
from kronexport.backends.base import agent_errors
from kronexport.errors import VerificationError
from kronexport.records import Check

Outputs = Mapping[str, NDArray[Any]]
"""Arrays by output name, the first axis counting samples."""

Stage = Literal["factorized", "portable", "lowered", "simplified", "quantized", "half", "compiled"]


def compare(stage: Stage, against: str, got: Outputs, reference: Outputs, tolerance: float | None) -> Check:
    """The largest difference over all outputs.

    ``rel_l2`` = ||y - y_ref|| / ||y_ref||; of whole numbers, such as labels, whose distance says nothing, the part of
    them that differs. Without a tolerance the stage is an approximation and cannot fail. Outputs are matched by
    position: names may differ between stages.

    Raises:
        VerificationError: shapes differ, one is of whole numbers and the other is not, or a value is not finite.
    """
    if len(got) != len(reference):
        raise VerificationError(f"{stage}: {len(got)} outputs, {against} has {len(reference)}")
    max_abs, rel_l2 = 0.0, 0.0
    for (name, ours), theirs in zip(got.items(), reference.values(), strict=True):
        if ours.shape != theirs.shape:
            raise VerificationError(f"{stage}: output {name} has shape {ours.shape}, {against}'s has {theirs.shape}")
        are_whole = [not np.issubdtype(output.dtype, np.inexact) for output in (ours, theirs)]
        if are_whole[0] != are_whole[1]:
            raise VerificationError(f"{stage}: output {name} is {ours.dtype}, {against}'s is {theirs.dtype}")
        difference = ours.astype(np.float64) - theirs
        if not np.isfinite(difference).all():
            raise VerificationError(f"{stage}: output {name} is not finite, or {against}'s is not; check the weights")
        max_abs = max(max_abs, float(np.max(np.abs(difference), initial=0.0)))
        rel_l2 = max(rel_l2, _part_that_differs(difference) if all(are_whole) else _relative(difference, theirs))
    passed = None if tolerance is None else rel_l2 <= tolerance
    return Check(stage, against, max_abs, rel_l2, tolerance, passed)


def are_finite(outputs: Outputs) -> bool:
    """Whether every value is a number."""
    return all(np.isfinite(output).all() for output in outputs.values())


def _relative(difference: NDArray[np.float64], reference: NDArray[Any]) -> float:
    norm = float(np.linalg.norm(reference.astype(np.float64)))
    return float(np.linalg.norm(difference)) / (norm or 1.0)


def _part_that_differs(difference: NDArray[np.float64]) -> float:
    return float(np.count_nonzero(difference)) / max(1, difference.size)


@torch.inference_mode()
def run_torch(model: nn.Module, images: NDArray[np.float32], batch: int) -> Outputs:
    """Outputs of a PyTorch model for ``images`` [K, C, H, W], taken ``batch`` at a time.

    They are named by their place among the tensors that the model returns, whatever holds them: the order of the
    exported model's outputs.
    """
    chunks = torch.split(torch.tensor(images), batch)  # a copy: a forward may change its input in place
    parts = [_named(model(chunk)) for chunk in chunks]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def run_onnx(path: Path, images: NDArray[np.float32]) -> Outputs:
    """Outputs of a one-input ONNX model in ONNX Runtime with every graph optimization off: what the file says.

    Raises:
        KronexportError: the runtime cannot load the file, or fails in it.
    """
    with agent_errors():
        session = agent.open_session("onnxruntime", str(path), 1, {"graph_optimization": "disabled"})
        return dict(agent.infer(session, {session.inputs[0].name: images}))


def _named(output: Any) -> dict[str, NDArray[Any]]:
    return {str(place): tensor.numpy() for place, tensor in enumerate(tree_leaves(output))}
