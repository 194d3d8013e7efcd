"""Merge a Conv with the 1x1 Conv before or behind it, where one Conv then needs fewer MACs and no more weights.

With nothing between them and equal groups (each group is a layer of its own), two linear layers are one:

    behind   y = V (W * x + b) + c                  = (V W) * x + (V b + c)             V is 1x1
    before   y = W * (V x + b) + c                  = (W V) * x + (sum of W) b + c      V is 1x1

V W contracts the channels between them, at each position of the kernel. Behind: V has no padding; its stride s only
picks pixels, so the strides multiply: floor(floor(n / r) / s) = floor(n / (r s)). Before: V has neither stride nor
padding. If W pads, it pads with zeros where V would have given b, so b must be 0.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from kronexport.lower.graph_edit import (
    SITE_MARK,
    add_constant,
    constant_array,
    graph_of,
    input_of,
    only_reader,
    replace,
    static_shape,
)

_PLAIN = ("NOTSET", "VALID")


@dataclass(frozen=True, slots=True)
class _Conv:
    """A Conv whose ``weight`` [F, C / group, kh, kw] and ``bias`` [F] are constants; ``pads`` is top, left, ..."""

    node: ir.Node
    weight: NDArray[Any]
    bias: NDArray[Any]
    group: int
    strides: tuple[int, ...]
    pads: tuple[int, ...]

    @property
    def is_pointwise(self) -> bool:
        return self.weight.shape[2:] == (1, 1) and not any(self.pads)

    @property
    def grouped(self) -> NDArray[np.float64]:
        """The weight as [group, F / group, C / group, kh, kw]."""
        filters = self.weight.shape[0] // self.group
        return self.weight.astype(np.float64).reshape(self.group, filters, *self.weight.shape[1:])


class MergeConvs(ir.passes.InPlacePass):
    """Merges pairs of Convs, from the inputs on, whose values between nothing else reads; equal outputs up to rounding.

    One of the two is a site's: what the dense network has too is left alone, so that its MACs stay those surveyed.
    Requires static shapes. Convs of other ranks than 2-D images, or with computed weights, stay.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        merged = [_merge_with_producer(node) for node in tuple(model.graph) if node.op_type == "Conv"]
        return ir.passes.PassResult(model, modified=any(merged))


def _merge_with_producer(node: ir.Node) -> bool:
    between = node.inputs[0]
    producer = None if between is None or only_reader(between) is None else between.producer()
    if producer is None or producer.op_type != "Conv" or not (SITE_MARK in producer.meta or SITE_MARK in node.meta):
        return False
    first, second = _read(producer), _read(node)
    if first is None or second is None or first.group != second.group:
        return False
    if not _is_one_conv(first, second) or not _pays(first, second):
        return False
    _replace(first, second)
    return True


def _read(node: ir.Node) -> _Conv | None:
    weight, bias = (constant_array(input_of(node, index)) for index in (1, 2))
    given_bias = input_of(node, 2) is not None
    if weight is None or weight.ndim != 4 or (bias is None and given_bias):  # noqa: PLR2004  # F, C, kh, kw
        return None
    if node.attributes.get_string("auto_pad", "NOTSET") not in _PLAIN:
        return None
    return _Conv(
        node,
        weight,
        np.zeros(weight.shape[0]) if bias is None else bias.astype(np.float64),
        node.attributes.get_int("group", 1),
        tuple(node.attributes.get_ints("strides", (1, 1))),
        tuple(node.attributes.get_ints("pads", (0, 0, 0, 0))),
    )


def _is_one_conv(first: _Conv, second: _Conv) -> bool:
    """Whether the two, one behind the other, are a single Conv."""
    padded_bias = any(second.pads) and first.bias.any()
    return second.is_pointwise or (first.is_pointwise and first.strides == (1, 1) and not padded_bias)


def _pays(first: _Conv, second: _Conv) -> bool:
    """Whether one Conv has fewer MACs than both and no more weights."""
    kernel = first.weight.shape[2:] if second.is_pointwise else second.weight.shape[2:]
    size: int = second.weight.shape[0] * first.weight.shape[1] * math.prod(kernel)
    between, output = static_shape(first.node.outputs[0]), static_shape(second.node.outputs[0])
    if between is None or output is None:
        return False
    pixels = math.prod(between[2:]), math.prod(output[2:])
    before = pixels[0] * first.weight.size + pixels[1] * second.weight.size
    return pixels[1] * size < before and size <= first.weight.size + second.weight.size


def _merged_weight(first: _Conv, second: _Conv) -> NDArray[np.float64]:
    """[F2, C1 / group, kh, kw] of the single Conv."""
    weight: NDArray[np.float64]
    if second.is_pointwise:
        weight = np.einsum("gfm,gmcij->gfcij", second.grouped[..., 0, 0], first.grouped, optimize=True)
    else:
        weight = np.einsum("gfmij,gmc->gfcij", second.grouped, first.grouped[..., 0, 0], optimize=True)
    return weight.reshape(-1, *weight.shape[2:])


def _replace(first: _Conv, second: _Conv) -> None:
    weight = _merged_weight(first, second)
    bias = second.bias + np.einsum("gfmij,gm->gf", second.grouped, first.bias.reshape(first.group, -1)).ravel()
    node, wide = second.node, first if second.is_pointwise else second
    dtype = second.weight.dtype
    inputs = [first.node.inputs[0], add_constant(node, "weight", weight.astype(dtype))]
    if input_of(node, 2) is not None or bias.any():
        inputs.append(add_constant(node, "bias", bias.astype(dtype)))
    strides = [a * b for a, b in zip(first.strides, second.strides, strict=True)]
    tape = ir.tape.Tape()
    tape.op("Conv", inputs, {**wide.node.attributes, "strides": ir.AttrInt64s("strides", strides)})
    tape.nodes[-1].meta[SITE_MARK] = True
    graph = graph_of(node)
    replace(node, tape)
    graph.remove(first.node, safe=True)
