"""Raise activations to the Conv before them, where runtimes fuse the two.

An elementwise f and an operator M that only moves elements (Reshape, Transpose ...) trade places, f(M(x)) = M(f(x)). So
Conv, M, f becomes Conv, f, M, if nothing else reads what is between them.
"""

from typing import Final

import onnx_ir as ir

from kronexport.lower.channel_rules import ELEMENTWISE
from kronexport.lower.graph_edit import constant_array, graph_of, only_reader

MOVES: Final = ("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


class RaiseActivations(ir.passes.InPlacePass):
    """Moves each elementwise operator that follows a Conv but for moves right behind it; equal outputs."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        raised = [_raise(node) for node in tuple(model.graph) if node.op_type in ELEMENTWISE and not node.domain]
        return ir.passes.PassResult(model, modified=any(raised))


def _raise(node: ir.Node) -> bool:
    moves = _moves_above(node)
    if not moves or any(value is not None and constant_array(value) is None for value in node.inputs[1:]):
        return False
    source, end, graph = moves[-1].inputs[0], moves[0].outputs[0], graph_of(node)
    producer = None if source is None else source.producer()
    if source is None or producer is None or producer.op_type != "Conv":
        return False
    tape = ir.tape.Tape()
    value = tape.op(node.op_type, [source, *node.inputs[1:]], dict(node.attributes), name=node.name)
    value.type, value.shape, value.name = node.outputs[0].type, source.shape, f"{source.name}_{node.op_type}"
    tape.nodes[0].metadata_props.update(node.metadata_props)
    graph.insert_before(moves[-1], tape.nodes)
    moves[-1].replace_input_with(0, value)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [], [node.outputs[0]], [end])
    return True


def _moves_above(node: ir.Node) -> list[ir.Node]:
    """The moves between ``node`` and what computes its input, from the last to the first; each is read once."""
    moves: list[ir.Node] = []
    value = node.inputs[0]
    while value is not None and only_reader(value) is not None:
        producer = value.producer()
        if producer is None or producer.op_type not in MOVES:
            return moves
        moves.append(producer)
        value = producer.inputs[0]
    return []
