"""The precision that each layer of an engine runs in, out of ``--exportLayerInfo``, against what was asked for.

An engine with ``--profilingVerbosity=detailed`` tells, layer by layer, the format and type of what goes in and out, the
type of its weights, and which ONNX nodes it is made of: by its name, and in later releases in "Metadata".
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kronexport.backends.profile import Precision
from kronexport.backends.trt_results import read_json
from kronexport.errors import KronexportError, VerificationError

SHOWN: Final = 5
"""Layers that an error names."""

_TYPES: Final = (
    (re.compile(r"int8", re.IGNORECASE), "int8"),
    (re.compile(r"bf16|bfloat16", re.IGNORECASE), "bf16"),
    (re.compile(r"fp16|half|float16", re.IGNORECASE), "fp16"),
    (re.compile(r"fp8", re.IGNORECASE), "fp8"),
    (re.compile(r"fp32|float", re.IGNORECASE), "fp32"),
)
"""The first that is found in a format such as "Thirty-two wide channel vectorized row major Int8 format"."""

_METADATA_NODE: Final = re.compile(r"\[ONNX Layer: ([^\]\x1e\x1f]+)\]")


@dataclass(frozen=True, slots=True)
class EngineLayer:
    """One layer of the engine. ``precision``: of what it computes with, None where it doesn't say.

    ``nodes``: names of the ONNX nodes that it is made of, as far as it tells.
    """

    name: str
    kind: str
    precision: str | None
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProvenPrecision:
    """``found``: by ONNX node the precision that it runs in. ``others``: what does not run as asked, with reasons."""

    found: Mapping[str, str]
    others: Mapping[str, str]


def parse_layers(text: str) -> tuple[EngineLayer, ...]:
    """The layers of ``--exportLayerInfo``.

    Raises:
        KronexportError: the file isn't of that form, or was not built with ``--profilingVerbosity=detailed``.
    """
    value = read_json(text, "exportLayerInfo")
    rows = value.get("Layers") if isinstance(value, dict) else None
    if not isinstance(rows, list) or not rows:
        raise KronexportError("trtexec --exportLayerInfo: no Layers; expected a list of them")
    if not all(isinstance(row, dict) and isinstance(row.get("Name"), str) for row in rows):
        raise KronexportError(
            "trtexec --exportLayerInfo: names alone, expected objects: build with --profilingVerbosity=detailed"
        )
    return tuple(
        EngineLayer(row["Name"], str(row.get("LayerType", "")), _precision(row), tuple(_nodes(row))) for row in rows
    )


def prove_precision(
    layers: tuple[EngineLayer, ...], asked: Mapping[str, Precision], *, allow_fallback: bool = False
) -> ProvenPrecision:
    """For every node that has a weight, the precision that it runs in.

    Args:
        layers: of the engine.
        asked: by ONNX node, of ``trt_model.asked_precisions``.
        allow_fallback: nodes that run in another precision, or of which the engine does not tell, are let be.

    Raises:
        VerificationError: a node does not run as asked, or the engine does not tell; names them.
    """
    found: dict[str, str] = {}
    for layer in layers:
        if layer.precision is not None:
            found |= {node: layer.precision for node in layer.nodes if node in asked}
    others = {
        node: f"{found[node]} instead of {wanted}" if node in found else f"{wanted} not shown by the engine"
        for node, wanted in asked.items()
        if found.get(node) != wanted
    }
    if others and not allow_fallback:
        named = ", ".join(f"{node} ({why})" for node, why in list(others.items())[:SHOWN])
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        raise VerificationError(
            f"TensorRT: {len(others)} of {len(asked)} nodes do not run in the precision that was asked for: "
            f"{named}{more}; build in another --precision, or let it be with --allow-fallback"
        )
    return ProvenPrecision(found, others)


def _precision(row: Mapping[str, Any]) -> str | None:
    """Of the tactic where that says TF32, else of the weights, else of the first input."""
    if "tf32" in str(row.get("TacticName", "")).lower():
        return "tf32"
    weights = row.get("Weights")
    if isinstance(weights, dict) and (kind := _type(str(weights.get("Type", "")))) is not None:
        return kind
    inputs = row.get("Inputs")
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], dict):
        return _type(str(inputs[0].get("Format/Datatype", "")))
    return None


def _type(text: str) -> str | None:
    return next((name for pattern, name in _TYPES if pattern.search(text)), None)


def _nodes(row: Mapping[str, Any]) -> Iterator[str]:
    yield from _METADATA_NODE.findall(str(row.get("Metadata", "")))
    yield from (part.strip() for part in row["Name"].split(" + "))
