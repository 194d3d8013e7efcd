"""Which nodes of a network are the steps of a layer."""

from collections.abc import Collection, Iterator, Mapping

import onnx

_SUFFIXES = ("/step", ".weight", "/weight")
"""What follows a layer's name in that of a Conv's weight."""

_WEIGHTY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def conv_steps(graph: onnx.GraphProto, sites: Collection[str]) -> dict[str, list[str]]:
    """By layer the names of its Convs in order, of those of ``sites``; one that a merge took away is not there.

    Args:
        graph: lowered, its weights named after the layers.
        sites: names of layers.
    """
    found: dict[str, list[str]] = {}
    for node in graph.node:
        if node.op_type == "Conv":
            site = site_of_weight(node.input[1], sites)
            if site is not None:
                found.setdefault(site, []).append(node.name)
    return found


def weighty_nodes(graph: onnx.GraphProto, sites: Collection[str]) -> dict[str, list[str]]:
    """By layer of ``sites`` the names of its Convs; and all other convolutions and matrix products, each alone.

    Such a one goes by the layer that its weight is named after, or by its own name.
    """
    found = conv_steps(graph, sites)
    taken = {name for names in found.values() for name in names}
    for node in graph.node:
        if node.op_type in _WEIGHTY and node.name not in taken:
            layer = next(_layers_of(node.input[1]), None)
            found[node.name if layer is None or layer in found else layer] = [node.name]
    return found


def float_nodes(graph: onnx.GraphProto, float_steps: Mapping[str, Collection[int]]) -> list[str]:
    """Names of the Convs that are the given steps, counted from 0, of the given layers."""
    names = conv_steps(graph, float_steps)
    return [name for site, steps in names.items() for index, name in enumerate(steps) if index in float_steps[site]]


def site_of_weight(weight: str, sites: Collection[str]) -> str | None:
    """The layer of ``sites`` that a weight of a lowered network is of, by its name."""
    return next((site for site in _layers_of(weight) if site in sites), None)


def _layers_of(weight: str) -> Iterator[str]:
    """What the weight may be named after."""
    for suffix in _SUFFIXES:
        layer, found, _ = weight.rpartition(suffix)
        if found:
            yield layer
