"""Multiply-accumulates of an ONNX graph at static shapes: Conv, ConvTranspose, Gemm, MatMul, Einsum, LSTM, GRU, RNN."""

import math

import onnx_ir as ir

from kronexport.errors import UserInputError


def count_macs(model: ir.Model) -> int:
    """Sum over the nodes of the main graph; needs shapes on every value that these nodes read or write.

    Raises:
        UserInputError: a shape is missing or symbolic, which names the node.
    """
    counters = {
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "Gemm": _gemm,
        "MatMul": _matmul,
        "Einsum": _einsum,
        "LSTM": _recurrent,
        "GRU": _recurrent,
        "RNN": _recurrent,
    }
    return sum(counters[node.op_type](node) for node in model.graph if node.op_type in counters)


def _conv(node: ir.Node) -> int:
    weight = _dims(node, node.inputs[1])
    return math.prod(_dims(node, node.outputs[0])) * math.prod(weight[1:])


def _conv_transpose(node: ir.Node) -> int:
    weight = _dims(node, node.inputs[1])
    return math.prod(_dims(node, node.inputs[0])) * math.prod(weight[1:])


def _gemm(node: ir.Node) -> int:
    transposed = "transA" in node.attributes and node.attributes["transA"].as_int() == 1
    contracted = _dims(node, node.inputs[0])[0 if transposed else 1]
    return math.prod(_dims(node, node.outputs[0])) * contracted


def _matmul(node: ir.Node) -> int:
    return math.prod(_dims(node, node.outputs[0])) * _dims(node, node.inputs[0])[-1]


def _einsum(node: ir.Node) -> int:
    """What is summed over several operands; a letter of one alone is summed before, and without a sum it is a Mul."""
    left, arrow, right = node.attributes["equation"].as_string().replace(" ", "").partition("->")
    terms = left.split(",")
    shared = {letter for letter in left if sum(letter in term for term in terms) > 1}
    kept = set(right) if arrow else {letter for letter in left if left.count(letter) == 1}
    sizes: dict[str, int] = {}
    for term, value in zip(terms, node.inputs, strict=True):
        dims, (before, dots, after) = list(_dims(node, value)), term.partition("...")
        if not dots:
            sizes |= zip(term, dims, strict=True)
            continue
        hidden = dims[len(before) : len(dims) - len(after)]
        sizes |= zip(before, dims, strict=False)
        sizes |= zip(after, dims[len(dims) - len(after) :], strict=True)
        for place, size in enumerate(reversed(hidden)):  # those of several terms are broadcast, from the last one on
            sizes[f"...{place}"] = max(size, sizes.get(f"...{place}", 1))
    if not {letter for letter in shared - kept if letter.isalpha()}:
        return 0
    return math.prod(size for name, size in sizes.items() if name in shared | kept or name.startswith("..."))


def _recurrent(node: ir.Node) -> int:
    """At each step W meets what comes in, and R what the step before gave; both hold all directions and gates."""
    steps = math.prod(_dims(node, node.inputs[0])[:2])  # of all sequences; the layout says which axis is which
    return steps * sum(math.prod(_dims(node, weight)) for weight in node.inputs[1:3])


def _dims(node: ir.Node, value: ir.Value | None) -> tuple[int, ...]:
    producer = None if value is None else value.producer()
    if producer is not None and producer.op_type == "DequantizeLinear":
        value = producer.inputs[0]  # of the same shape, and known even where inference was not run
    shape = None if value is None else value.shape
    if shape is None or not all(isinstance(size, int) for size in shape.dims):
        raise UserInputError(f"{node.name}: shape {shape} is not static, so its MACs cannot be counted")
    return tuple(int(str(size)) for size in shape.dims)
