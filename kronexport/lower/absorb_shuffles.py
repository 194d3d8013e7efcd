"""Absorb channel shuffles: values are stored in another order of channels, so that Transposes are not needed.

A shuffle v = u[:, o] is not needed if v is stored as v[:, inverse(o)], which is u, or if u is stored as u[:, o], which
is v. Whoever makes or reads the value then carries that order (``channel_rules.py``): operators that are alike for
every channel ask it of their other values too, until it ends in the weights of Convs and Gemms or in other shuffles,

    stored as u[:, a] and v[:, b]:        v[:, b] = u[:, a][:, inverse(a)[o[b]]]

which may vanish as well, or go on as one Transpose of another kind. A reader that needs its channels as they are gets
them by a new shuffle: two of one order before an Add become one behind it. Each order is tried as a whole and taken
only if it leaves fewer Transposes than there were; graph inputs and outputs refuse it. Weights hold the same numbers in
another order, so nothing is rounded.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from kronexport.lower.channel_orders import (
    CannotReorderError,
    Order,
    inverse,
    is_identity,
    transposes_of,
    widened,
)
from kronexport.lower.channel_rules import reordered_constants, spread
from kronexport.lower.graph_edit import set_constant, static_shape
from kronexport.lower.shuffles import Shuffle, check_insert, find_shuffles, insert, rewrite


class AbsorbShuffles(ir.passes.InPlacePass):
    """Takes away every shuffle whose order its neighbours can carry, with equal outputs.

    Requires static shapes on all values. Ensures that there are no more Transposes than before. A vanished shuffle
    leaves an Identity, or a Reshape where it flattened too.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        while _Round(model.graph).run():
            modified = True
        return ir.passes.PassResult(model, modified)


class _Plan:
    """What one attempt comes to, before anything is changed.

    Attributes:
        orders: the order that each value is to be stored in.
        carriers: the nodes that carry them.
        kept: readers that need a value as it was, by that value: a new shuffle gives it to them.
    """

    def __init__(self) -> None:
        self.orders: dict[ir.Value, Order] = {}
        self.carriers: dict[ir.Node, None] = {}
        self.kept: dict[ir.Value, list[ir.Node]] = {}

    def asked(self, node: ir.Node, value: ir.Value) -> dict[ir.Value, Order]:
        """What ``node`` asks of other values now that ``value`` has its order."""
        try:
            asked = spread(node, value, self.orders[value])
        except CannotReorderError:
            if node is value.producer():
                raise
            self.kept.setdefault(value, []).append(node)
            return {}
        self.carriers[node] = None
        return asked

    def check(self) -> None:
        """Raise CannotReorderError if a node would carry one order but not another, or no Transpose keeps a value."""
        for value, readers in self.kept.items():
            check_insert(value, inverse(self.orders[value]))
            if not self.carriers.keys().isdisjoint(readers):
                raise CannotReorderError(f"a reader of '{value.name}' carries another order")


class _Round:
    """One attempt on each shuffle of a graph. ``shuffles`` holds those that are there, by each of their nodes."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.shuffles = {node: shuffle for shuffle in find_shuffles(graph) for node in shuffle.nodes}

    def run(self) -> bool:
        """Whether any Transpose is gone."""
        absorbed = False
        for shuffle in tuple(dict.fromkeys(self.shuffles.values())):
            unchanged = self.shuffles.get(shuffle.nodes[0]) is shuffle
            absorbed |= unchanged and self._absorb(shuffle)
        return absorbed

    def _absorb(self, shuffle: Shuffle) -> bool:
        starts: tuple[dict[ir.Value, Order], ...] = (
            {},
            {shuffle.result: _widened_to(shuffle.result, inverse(shuffle.order))},
            {shuffle.source: _widened_to(shuffle.source, shuffle.order)},
        )
        for start in starts:
            try:
                plan = self._plan(start)
                changed = self._changed(shuffle, plan.orders)
                gone = sum(met.transposes - transposes_of(order) for met, order in changed)
            except CannotReorderError:
                continue
            if gone > len(plan.kept):
                self._commit(plan, changed)
                return True
        return False

    def _plan(self, start: Mapping[ir.Value, Order]) -> "_Plan":
        """The orders of all values that those of ``start`` bring about.

        Raises:
            CannotReorderError: a value cannot have its order, or would need two.
        """
        plan = _Plan()
        waiting = dict(start)
        while waiting:
            value, order = waiting.popitem()
            if value in plan.orders:
                if not np.array_equal(plan.orders[value], order):
                    raise CannotReorderError(f"'{value.name}' would need two orders")
                continue
            plan.orders[value] = order
            if is_identity(order):
                continue
            for node in self._neighbours(value):
                for other, asked in plan.asked(node, value).items():
                    if not np.array_equal(waiting.setdefault(other, asked), asked):
                        raise CannotReorderError(f"'{other.name}' would need two orders")
        plan.check()
        return plan

    def _neighbours(self, value: ir.Value) -> tuple[ir.Node, ...]:
        """The nodes that make or read ``value``, those of shuffles left out."""
        producer = value.producer()
        if producer is None or value.is_graph_output():
            raise CannotReorderError(f"'{value.name}' is an input or output of the model")
        nodes = dict.fromkeys((producer, *(usage.node for usage in value.uses())))
        if any(node.graph is not self.graph for node in nodes):
            raise CannotReorderError(f"'{value.name}' is read in a subgraph")
        return tuple(node for node in nodes if node not in self.shuffles)

    def _changed(self, tried: Shuffle, orders: Mapping[ir.Value, Order]) -> list[tuple[Shuffle, Order]]:
        """``tried`` and the shuffles that ``orders`` reach, each with what is left for it to do."""
        nodes = (node for value in orders for node in (value.producer(), *(usage.node for usage in value.uses())))
        found = (self.shuffles.get(node) for node in nodes if node is not None)
        met = dict.fromkeys((tried, *(shuffle for shuffle in found if shuffle is not None)))
        return [
            (shuffle, shuffle.order_between(*(_order_of(value, orders) for value in (shuffle.source, shuffle.result))))
            for shuffle in met
        ]

    def _commit(self, plan: "_Plan", changed: list[tuple[Shuffle, Order]]) -> None:
        constants = [(node, reordered_constants(node, plan.orders)) for node in plan.carriers]
        for node, arrays in constants:
            for index, array in arrays.items():
                set_constant(node, index, f"reordered{index}", array)
        for value, readers in plan.kept.items():
            new = insert(value, inverse(plan.orders[value]), readers)
            self.shuffles.update(dict.fromkeys(new.nodes, new))
        for shuffle, order in changed:
            if transposes_of(order) == shuffle.transposes and np.array_equal(order, shuffle.order):
                continue  # both its ends moved alike
            for node in shuffle.nodes:
                del self.shuffles[node]
            left = rewrite(shuffle, order)
            if left is not None:
                self.shuffles.update(dict.fromkeys(left.nodes, left))


def _widened_to(value: ir.Value, order: Order) -> Order:
    """``order`` of channels as one of the axis 1 of ``value``, where these may be flattened with their pixels."""
    return widened(order, _channels(value) // len(order))


def _order_of(value: ir.Value, orders: Mapping[ir.Value, Order]) -> Order:
    return orders.get(value, np.arange(_channels(value)))


def _channels(value: ir.Value) -> int:
    shape = static_shape(value)
    if shape is None:
        raise TypeError(f"'{value.name}' has no static shape")
    return shape[1]
