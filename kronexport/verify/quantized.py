"""The stage ``quantize``: an int8 model that computes nearly what its float model does, layers in float where it must.

How far int8 may move the outputs is the target's tolerance. Where it moves them further, the layers that do so most,
each quantized alone, stay in float, one after the other, until it does not: those that could be factorized, whole, and
every other convolution and matrix product. Where all of these in float do not suffice, any other node may be the one.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from kronexport.errors import VerificationError
from kronexport.precision.quantize import Scheme, quantized
from kronexport.precision.steps import float_nodes, weighty_nodes
from kronexport.records import Check
from kronexport.verify.harmful import few, keep_harmful
from kronexport.verify.outputs import Outputs, are_finite, compare, run_onnx
from kronexport.verify.stages import VerifiedModel, require


def verify_quantized(
    verified: VerifiedModel,
    images: NDArray[np.float32],
    feeds: Sequence[Mapping[str, NDArray[Any]]],
    scheme: Scheme,
    *,
    sites: Collection[str],
    float_steps: Mapping[str, Collection[int]],
    tolerance: float,
) -> VerifiedModel:
    """The model in int8, beside its float one.

    Args:
        verified: the float model with its outputs.
        images: golden inputs [K, C, H, W], of which ``verified`` has the outputs.
        feeds: calibration inputs by name, each of the model's batch.
        scheme: of the target.
        sites: names of the layers whose Convs stay in float together.
        float_steps: of layers the Convs that stay in float since they are faster so.
        tolerance: largest relative L2 of the outputs from the float ones.

    Raises:
        VerificationError: the outputs move further until all nodes are in float.
        KronexportError: the model cannot be quantized.
    """
    model = onnx.load(verified.path)
    layers = weighty_nodes(model.graph, sites)
    refused = scheme.refused(model.graph)
    kept = {*float_nodes(model.graph, float_steps), *refused}
    weighty = {name for names in layers.values() for name in names}
    others = [node.name for node in model.graph.node if node.name not in weighty]
    folder = verified.path.parent / "int8"
    folder.mkdir()
    path = folder / verified.path.name

    def nodes_in_float(names: Sequence[str]) -> set[str]:
        return kept.union(*(layers.get(name, [name]) for name in names))

    def outputs(names: Sequence[str]) -> Outputs:
        onnx.save(quantized(model, feeds, scheme, sorted(nodes_in_float(names))), path)
        return run_onnx(path, images)

    def check(found: Outputs) -> Check:
        return compare("quantized", "simplified", found, verified.outputs, tolerance)

    def error(found: Outputs) -> float:
        return check(found).rel_l2 or 0.0 if are_finite(found) else np.inf

    harmful, found = keep_harmful(list(layers), outputs, error, tolerance, others)
    if harmful and not any(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node):
        raise VerificationError(
            f"quantized: outputs differ from simplified's by more than {tolerance:g} (relative L2) until all nodes are "
            f"in float; nothing was shipped: build without int8"
        )
    done = require(check(found))
    return replace(
        verified,
        path=path,
        in_float=verified.path,
        outputs=found,
        checks=(*verified.checks, done),
        notes=(*verified.notes, *_notes(nodes_in_float(harmful), harmful, refused)),
    )


def _notes(kept: Collection[str], harmful: Sequence[str], refused: Mapping[str, str]) -> list[str]:
    notes = [f"int8: {len(kept)} nodes stay in float"] if kept else []
    if refused:
        named = few([f"{name} ({why})" for name, why in refused.items()])
        notes.append(f"int8: the runtime has no int8 for groups of {len(refused)} Convs: {named}")
    if harmful:
        notes.append(f"int8: {len(harmful)} layers stay in float since they move the outputs most: {few(harmful)}")
    return notes
