"""Microseconds of each layer of a compiled network, of a profiling run of its own; the runtime must name its nodes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx

from kronexport.measure.setting import Setting
from kronexport.precision.steps import site_of_weight

PROFILED: Final = frozenset({"tensorrt"})
"""Runtimes whose machine has a profiling job."""
TIMEOUT_SECONDS: Final = 1800.0

_MOVED: Final = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})
"""What stands between a weight and its Conv."""


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer of the engine: the ONNX nodes that it is made of, as far as the runtime tells, and microseconds."""

    nodes: tuple[str, ...]
    us: float


def profile_layers(artifact: Path, setting: Setting) -> tuple[LayerTime, ...]:
    """All layers of the engine.

    Raises:
        KronexportError: As ``Machine.run_agent``.
    """
    job = setting.job("profile", {artifact.name: artifact})
    found = setting.machine.run_agent(job, timeout_seconds=TIMEOUT_SECONDS)
    return tuple(LayerTime(tuple(layer["nodes"]), layer["us"]) for layer in found["layers"])


def site_times(layers: Collection[LayerTime], sites: Mapping[str, str]) -> dict[str, float]:
    """Microseconds by site: the sum of the engine's layers that are made of its nodes.

    A layer that is made of nodes of two sites belongs to neither, and both have no time. What the engine adds of its
    own, such as a change of layout between layers, belongs to no site.

    Args:
        layers: of the engine.
        sites: by node the site that it is of.
    """
    times: dict[str, float] = {}
    torn: set[str] = set()
    for layer in layers:
        found = {sites[node] for node in layer.nodes if node in sites}
        if len(found) > 1:
            torn |= found
        for site in found:
            times[site] = times.get(site, 0.0) + layer.us
    return {site: us for site, us in times.items() if site not in torn}


def sites_of_nodes(path: Path, sites: Collection[str]) -> dict[str, str]:
    """By node of an ONNX file the site that it is of: the steps of a factorized layer, and the node of a dense weight.

    Args:
        path: lowered, nodes and weights named after the sites.
        sites: their names.
    """
    graph = onnx.load(path).graph
    makers = {output: node for node in graph.node for output in node.output}
    found: dict[str, str] = {}
    for node in graph.node:
        site, step, _ = node.name.rpartition("/")
        if step and site in sites:
            found[node.name] = site
            continue
        weight = node.input[1] if node.op_type in ("Conv", "Gemm", "MatMul") else ""
        while weight in makers and makers[weight].op_type in _MOVED:
            weight = makers[weight].input[0]
        owner = site_of_weight(weight, sites)
        if owner is not None:
            found[node.name] = owner
    return found
