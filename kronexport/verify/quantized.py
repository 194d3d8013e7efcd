"""The stage ``quantize``: an int8 model that computes nearly what its float model does, layers in float where it must.

How far int8 may move the outputs is the target's tolerance. Where it moves them further, the layers that do so most,
each quantized alone, stay in float, one after the other, until it does not.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from kronexport.precision.quantize import Scheme, quantized
from kronexport.precision.steps import conv_steps, float_nodes
from kronexport.records import Check
from kronexport.verify.outputs import Outputs, compare, run_onnx
from kronexport.verify.stages import VerifiedModel, require

SHOWN = 5
"""Layers that a note names."""


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
        sites: names of the layers that may stay in float.
        float_steps: of layers the Convs that stay in float since they are faster so.
        tolerance: largest relative L2 of the outputs from the float ones.

    Raises:
        VerificationError: the outputs move further with all ``sites`` in float.
        KronexportError: the model cannot be quantized.
    """
    model = onnx.load(verified.path)
    steps = conv_steps(model.graph, sites)
    refused = scheme.refused(model.graph)
    kept = {*float_nodes(model.graph, float_steps), *refused}
    folder = verified.path.parent / "int8"
    folder.mkdir()
    path = folder / verified.path.name

    def outputs(keep_float: Collection[str]) -> Outputs:
        onnx.save(quantized(model, feeds, scheme, sorted(keep_float)), path)
        return run_onnx(path, images)

    def check(found: Outputs) -> Check:
        return compare("quantized", "simplified", found, verified.outputs, tolerance)

    found = outputs(kept)
    harmful: list[str] = []
    if check(found).passed is False:
        every = set().union(*steps.values())

        def alone(site: str) -> float:
            return check(outputs(every.difference(steps[site]))).rel_l2 or 0.0

        for site in sorted(steps, key=alone, reverse=True):
            harmful.append(site)
            kept.update(steps[site])
            found = outputs(kept)
            if check(found).passed:
                break
    done = require(check(found))
    return replace(
        verified,
        path=path,
        in_float=verified.path,
        outputs=found,
        checks=(*verified.checks, done),
        notes=(*verified.notes, *_notes(kept, harmful, refused)),
    )


def _notes(kept: Collection[str], harmful: Sequence[str], refused: Mapping[str, str]) -> list[str]:
    notes = [f"int8: {len(kept)} Convs stay in float"] if kept else []
    if refused:
        shown = ", ".join(f"{name} ({why})" for name, why in list(refused.items())[:SHOWN])
        named = shown + (", ..." if len(refused) > SHOWN else "")
        notes.append(f"int8: the runtime has no int8 for groups of {len(refused)} Convs: {named}")
    if harmful:
        named = ", ".join(harmful[:SHOWN]) + (", ..." if len(harmful) > SHOWN else "")
        notes.append(f"int8: {len(harmful)} layers stay in float since they move the outputs most: {named}")
    return notes
