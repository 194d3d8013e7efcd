"""Q/DQ as TensorRT reads it: pairs at weights too, float biases, and no pair where it would stop a fusion.

- A DequantizeLinear of INT32, which a quantized bias has, is refused by TensorRT's parser.
- A weight stays float behind a Q/DQ pair, which the builder folds: the older releases take no constants of INT8.
- Conv, residual Add and activation are one kernel of TensorRT, unless a pair stands between them. What the pair
  rounds in between is then computed in higher precision, so that taking it away can only bring outputs nearer.

Source: NVIDIA, TensorRT developer guide, "Q/DQ layer-placement recommendations".
"""

from collections.abc import Iterator
from typing import Any, Final

import onnx

from kronexport.lower.memory import ACTIVATIONS

OPTIONS: Final[dict[str, Any]] = {"ActivationSymmetric": True, "AddQDQPairToWeight": True, "QuantizeBias": False}
"""Of the quantizer of ONNX Runtime."""

_FUSED_INTO: Final = frozenset({"Conv", "Add"})


def without_pairs_that_split(graph: onnx.GraphProto) -> None:
    """Take away, in place, the pairs that stand inside what is one kernel: Conv (+ Add) (+ activation)."""
    for quantize, dequantize in list(_pairs(graph)):
        readers = [node for node in graph.node if dequantize.output[0] in node.input]
        makers = [node for node in graph.node if quantize.input[0] in node.output]
        if len(readers) == len(makers) == 1 and _splits(graph, makers[0], readers[0], dequantize.output[0]):
            inputs = readers[0].input
            inputs[:] = [quantize.input[0] if name == dequantize.output[0] else name for name in inputs]
            graph.node.remove(quantize)
            graph.node.remove(dequantize)


def _pairs(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """A Q that reads alone what it reads, with the DQ that reads alone what it makes; no output of the graph."""
    outputs = {value.name for value in graph.output}
    for quantize in graph.node:
        if quantize.op_type != "QuantizeLinear" or _reader_count(graph, quantize.input[0]) != 1:
            continue
        readers = [node for node in graph.node if quantize.output[0] in node.input]
        if [node.op_type for node in readers] == ["DequantizeLinear"] and readers[0].output[0] not in outputs:
            yield quantize, readers[0]


def _splits(graph: onnx.GraphProto, maker: onnx.NodeProto, reader: onnx.NodeProto, between: str) -> bool:
    """Whether the pair stands between a Conv or Add and its activation, or between a Conv and a residual Add.

    Of an Add, one input stays behind its pair: the kernel reads the residual in INT8.
    """
    if reader.op_type in ACTIVATIONS:
        return maker.op_type in _FUSED_INTO
    if reader.op_type != "Add" or maker.op_type != "Conv":
        return False
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return all(name in dequantized for name in reader.input if name != between) and len(set(reader.input)) > 1


def _reader_count(graph: onnx.GraphProto, name: str) -> int:
    return sum(name in node.input for node in graph.node)
