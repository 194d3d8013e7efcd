"""The stage ``half``: an FP16 model that computes nearly what its float model does, nodes in float where they must be.

Nodes that FP16 is too small for on calibration images and golden data stay in float. Where the outputs still move by
more than the target's tolerance, the nodes that move them most, each in FP16 alone, stay in float, one after the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from kronexport import agent
from kronexport.backends.base import agent_errors
from kronexport.lower.graph_edit import static_shape
from kronexport.lower.standard import check_standard
from kronexport.precision.half import half, half_nodes, rounded
from kronexport.precision.half_ranges import ValueRanges, too_small_for, with_all_values
from kronexport.verify.harmful import few, keep_harmful
from kronexport.verify.outputs import Outputs, are_finite, compare, run_onnx
from kronexport.verify.stages import VerifiedModel, require

Feed = Mapping[str, NDArray[Any]]


def verify_half(
    verified: VerifiedModel, images: NDArray[np.float32], feeds: Sequence[Feed], *, tolerance: float
) -> VerifiedModel:
    """The model in FP16, beside its float one. Its outputs are those with every value rounded to FP16.

    Args:
        verified: the float model with its outputs.
        images: golden inputs [K, C, H, W], of which ``verified`` has the outputs.
        feeds: more inputs by name, each of the model's batch: what values may become.
        tolerance: largest relative L2 of the outputs from the float ones.

    Raises:
        VerificationError: the outputs move further with all nodes in float.
        UserInputError: a node holds a graph of its own.
    """
    model = ir.load(verified.path)
    folder = verified.path.parent / "fp16"
    folder.mkdir()
    path, emulated = folder / verified.path.name, folder / "rounded.onnx"
    (given,) = model.graph.inputs
    batch, *_ = static_shape(given) or (len(images),)
    golden = ({str(given.name): images[at : at + batch]} for at in range(0, len(images), batch))
    reasons = too_small_for(model, value_ranges(model, folder, [*feeds, *golden]))

    nodes = half_nodes(model)
    small = {name: reasons[name] for name in nodes if name in reasons}

    def outputs(keep_float: Sequence[str]) -> Outputs:
        typed = half(model, {*small, *keep_float})
        ir.save(typed, path)
        ir.save(rounded(typed), emulated)
        return run_onnx(emulated, images)

    def error(found: Outputs) -> float:
        """The larger of that of rounded values, and that of the file, which a runtime computes in float."""
        both = found, run_onnx(path, images)
        if not all(map(are_finite, both)):
            return np.inf
        return max(compare("half", "simplified", one, verified.outputs, tolerance).rel_l2 or 0.0 for one in both)

    harmful, found = keep_harmful([node for node in nodes if node not in small], outputs, error, tolerance)
    check_standard(ir.load(path))
    require(compare("half", "simplified", run_onnx(path, images), verified.outputs, tolerance))
    return replace(
        verified,
        path=path,
        in_float=verified.path,
        outputs=found,
        checks=(*verified.checks, require(compare("half", "simplified", found, verified.outputs, tolerance))),
        notes=(*verified.notes, *_notes(len(nodes), small, harmful)),
    )


def value_ranges(model: ir.Model, folder: Path, feeds: Iterable[Feed]) -> ValueRanges:
    """Of the inputs of ``model`` and of all that its nodes make, over ``feeds``, one at a time.

    Raises:
        KronexportError: the runtime cannot load the model, or fails in it.
    """
    path = folder / "all_values.onnx"
    ir.save(with_all_values(model), path)
    ranges = ValueRanges()
    with agent_errors():
        session = agent.open_session("onnxruntime", str(path), 1, {"graph_optimization": "disabled"})
        for feed in feeds:
            ranges.add(feed)
            ranges.add(session.run(dict(feed)))
    path.unlink()
    return ranges


def _notes(count: int, reasons: Mapping[str, str], harmful: Sequence[str]) -> list[str]:
    notes = []
    if reasons:
        named = few([f"{name} ({reason})" for name, reason in reasons.items()])
        notes.append(f"fp16: {len(reasons)} of {count} nodes stay in float since FP16 is too small for them: {named}")
    if harmful:
        notes.append(
            f"fp16: {len(harmful)} of {count} nodes stay in float since they move the outputs most: {few(harmful)}"
        )
    return notes
