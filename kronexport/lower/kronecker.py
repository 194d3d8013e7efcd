"""The lowering pass: every KroneckerConv node becomes the standard operators of the form chosen for its site."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from kronexport.errors import UserInputError
from kronexport.export.operator import DOMAIN, OperatorNode, is_kronecker, read_node
from kronexport.factorize.network import KroneckerNetwork, check_group
from kronexport.lower.emit import Emitter
from kronexport.lower.forms import Form, generate_forms


class LowerKronecker(ir.passes.InPlacePass):
    """Replace each KroneckerConv node by its form; a BatchNormalization behind it is folded in where that is exact.

    Requires factors, bias and BatchNormalization parameters as initializers and static channel and image sizes.
    Ensures that no node of the ``com.kronexport`` domain is left.

    Args:
        forms: name of a form (``lower.forms``) for each site.
    """

    def __init__(self, forms: Mapping[str, str]) -> None:
        super().__init__()
        self.forms = forms

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = [node for node in model.graph if is_kronecker(node)]
        for node in nodes:
            self._lower(model.graph, node)
        model.functions.clear()
        model.opset_imports.pop(DOMAIN, None)
        return ir.passes.PassResult(model, modified=bool(nodes))

    def _lower(self, graph: ir.Graph, node: ir.Node) -> None:
        meaning = read_node(node)
        form = self._form(meaning, node)
        x, bias, *factors = node.inputs
        network = KroneckerNetwork(meaning.structure, tuple(_constant(value, node) for value in factors))
        norm = _following_norm(node) if form.absorbs_affine else None
        scale, shift = _affine(norm, _constant(bias, node).astype(np.float64))
        emitter = Emitter(form, network, meaning.site)
        output = emitter.emit(_given(x, node), scale, shift)
        replaced = [node] if norm is None else [node, norm]
        for value in emitter.tape.initializers:
            graph.register_initializer(value)
        ir.convenience.replace_nodes_and_values(
            graph, replaced[-1], replaced, emitter.tape.nodes, list(replaced[-1].outputs[:1]), [output]
        )

    def _form(self, meaning: OperatorNode, node: ir.Node) -> Form:
        check_group(meaning.structure, meaning.geometry.group, meaning.site)
        forms = generate_forms(meaning.structure, meaning.geometry, _image_size(node))
        wanted = self.forms.get(meaning.site)
        for form in forms:
            if form.name == wanted:
                return form
        raise UserInputError(
            f"{meaning.site}: no lowering {wanted!r} for {meaning.structure}; use one of "
            + ", ".join(form.name for form in forms)
        )


def _image_size(node: ir.Node) -> tuple[int, int]:
    shape = _given(node.inputs[0], node).shape
    if shape is None or not all(isinstance(size, int) for size in shape.dims[2:]):
        raise UserInputError(f"{node.name}: the image size {shape} is not static; export with a fixed height and width")
    return int(str(shape[2])), int(str(shape[3]))


def _given(value: ir.Value | None, node: ir.Node) -> ir.Value:
    if value is None:
        raise ValueError(f"{node.name}: a required input is missing")
    return value


def _constant(value: ir.Value | None, node: ir.Node) -> NDArray[Any]:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None:
        raise ValueError(f"{node.name}: input {value} is not a constant")
    return tensor.numpy()


def _following_norm(node: ir.Node) -> ir.Node | None:
    """The BatchNormalization that alone reads the node's output, if its parameters are constants."""
    output = node.outputs[0]
    consumers = output.consumers()
    if len(consumers) != 1 or output.is_graph_output():
        return None
    (consumer,) = consumers
    constants = all(value is not None and value.is_initializer() for value in consumer.inputs[1:])
    return consumer if consumer.op_type == "BatchNormalization" and constants else None


def _affine(norm: ir.Node | None, bias: NDArray[np.float64]) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]]:
    """Scale and shift of ``norm(y + bias)``: gamma / std and beta + (bias - mean) gamma / std."""
    if norm is None:
        return None, bias
    gamma, beta, mean, variance = (_constant(value, norm).astype(np.float64) for value in norm.inputs[1:5])
    epsilon = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else 1e-5
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta + (bias - mean) * scale
