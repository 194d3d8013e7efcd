"""Which Convs TensorRT computes in INT8: those in groups need channels per group in multiples of 4, in and out.

Source: NVIDIA, TensorRT API, ``IConvolutionLayer::setNbGroups``, and ``IDeconvolutionLayer::setNbGroups`` for
ConvTranspose. Depthwise ones have one channel a group, so by the published rule they are none of them.
"""

from typing import Final

import onnx

INT8_MULTIPLE: Final = 4
"""Of channels per group."""

_GROUPED: Final = frozenset({"Conv", "ConvTranspose"})
_QDQ: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})


def int8_group_fits(groups: int, channels_in: int, channels_out: int) -> bool:
    """Whether TensorRT has INT8 for a Conv; one without groups always fits.

    Args:
        groups: of the Conv.
        channels_in: of one group.
        channels_out: of one group.
    """
    return groups == 1 or (channels_in % INT8_MULTIPLE == 0 and channels_out % INT8_MULTIPLE == 0)


def refused_groups(graph: onnx.GraphProto) -> dict[str, str]:
    """By name the Convs and ConvTransposes that do not fit, each with its groups in words.

    Args:
        graph: those whose weight is no initializer, also behind Q/DQ, are not looked at.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    refused: dict[str, str] = {}
    for node in graph.node:
        if node.op_type not in _GROUPED:
            continue
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        shape = _source_shape(node.input[1], shapes, makers)
        if shape is None:
            continue
        channels, filters = shape[1], shape[0] // groups
        if node.op_type == "ConvTranspose":  # its weight is [C, F / groups, kh, kw]
            channels, filters = filters, channels
        if not int8_group_fits(groups, channels, filters):
            refused[node.name] = f"{groups} groups of {channels} to {filters} channels"
    return refused


def _source_shape(
    name: str, shapes: dict[str, tuple[int, ...]], makers: dict[str, onnx.NodeProto]
) -> tuple[int, ...] | None:
    """The shape of a weight, which Q/DQ does not change; None if it is computed, or an input of the graph."""
    while name not in shapes:
        maker = makers.get(name)
        if maker is None or maker.op_type not in _QDQ:
            return None
        name = maker.input[0]
    return shapes[name]
