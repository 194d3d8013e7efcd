"""Casts between float and FP16 in a graph: one for each value and kind, and constants converted instead."""

from typing import Final

import numpy as np
import onnx_ir as ir

_NUMPY: Final = {ir.DataType.FLOAT: np.float32, ir.DataType.FLOAT16: np.float16}
_SUFFIX: Final = {ir.DataType.FLOAT: "float", ir.DataType.FLOAT16: "half"}


class Casts:
    """Gives the values of a graph in the kind that is wanted. Nodes that it adds are named after the value."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._first = next(iter(graph), None)
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self._names = {*ir.convenience.create_value_mapping(graph), *(node.name for node in graph)}

    def of(self, value: ir.Value, kind: ir.DataType) -> ir.Value:
        """``value`` itself if it is of ``kind``, else a constant or the result of a Cast that is."""
        if value.dtype == kind:
            return value
        key = value, kind
        if key not in self._made:
            constant = value.is_initializer() and not value.is_graph_input()
            self._made[key] = self._constant(value, kind) if constant else self._cast(value, kind)
        return self._made[key]

    def at_the_end(self, value: ir.Value, kind: ir.DataType) -> ir.Value:
        """What takes the place of an output ``value`` of the graph: of ``kind``, and of its name."""
        name = value.name
        value.name = self._unused(f"{name}_{_SUFFIX[kind]}_before")
        cast = self._cast(value, kind)
        cast.name = name
        return cast

    def round_behind(self, value: ir.Value) -> None:
        """Let all that reads an FP16 ``value`` read a float one that was rounded to FP16; Casts to FP16 stay."""
        node, uses = value.producer(), tuple(value.uses())
        inner = value
        if node is None or node.op_type != "Cast":
            value.type = ir.TensorType(ir.DataType.FLOAT)
            inner = self._cast(value, ir.DataType.FLOAT16)
        result = self._cast(inner, ir.DataType.FLOAT)
        for use in uses:
            use.node.replace_input_with(use.idx, result)

    def tidy(self) -> None:
        """Remove the constants that nothing reads any more; those that took their place take their names."""
        for (value, _), made in self._made.items():
            if value.is_initializer() and not value.uses() and not value.is_graph_output():
                name = str(value.name)
                self._graph.initializers.pop(name)
                if made.is_initializer():
                    self._graph.initializers.pop(str(made.name))
                    made.name = name
                    self._graph.initializers.add(made)

    def _constant(self, value: ir.Value, kind: ir.DataType) -> ir.Value:
        if value.const_value is None:
            raise ValueError(f"{value.name}: an initializer without a value")
        with np.errstate(over="ignore"):  # whoever converts what overflows has looked at it before
            array = value.const_value.numpy().astype(_NUMPY[kind])
        name = self._unused(f"{value.name}_{_SUFFIX[kind]}")
        made = ir.Value(name=name, shape=value.shape, type=ir.TensorType(kind), const_value=ir.tensor(array, name=name))
        made.metadata_props.update(value.metadata_props)
        self._graph.register_initializer(made)
        return made

    def _cast(self, value: ir.Value, kind: ir.DataType) -> ir.Value:
        """The result of a Cast right behind the node that makes ``value``, or in front of all."""
        name = self._unused(f"{value.name}_{_SUFFIX[kind]}")
        result = ir.Value(name=name, shape=value.shape, type=ir.TensorType(kind))
        node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", kind.value)], outputs=[result], name=f"{name}_cast")
        producer = value.producer()
        if producer is not None:
            node.metadata_props.update(producer.metadata_props)
            self._graph.insert_after(producer, node)
        elif self._first is not None:
            self._graph.insert_before(self._first, node)
        else:
            self._graph.append(node)
        return result

    def _unused(self, wanted: str) -> str:
        name, number = wanted, 0
        while name in self._names or f"{name}_cast" in self._names:
            number += 1
            name = f"{wanted}_{number}"
        self._names |= {name, f"{name}_cast"}
        return name
