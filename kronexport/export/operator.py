"""``com.kronexport::KroneckerConv``, version 1: the attributes of the operator and its meaning as a function.

Inputs: ``X [N, C, H, W]``, ``B [F]``, then the factors ``A_1 ... A_S``. See docs/operator.md.
"""

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from kronexport.factorize.network import einsum_equation
from kronexport.records import ConvGeometry, FactorShape, Structure

DOMAIN = "com.kronexport"
OP_TYPE = "KroneckerConv"
VERSION = 1
SITE_KEY = "kronexport.site"
METHOD_KEY = "kronexport.method"


@dataclass(frozen=True, slots=True)
class OperatorNode:
    """What a KroneckerConv node says about itself."""

    site: str
    structure: Structure
    geometry: ConvGeometry


def is_kronecker(node: ir.Node) -> bool:
    """Whether ``node`` is one of this operator."""
    return (node.domain, node.op_type) == (DOMAIN, OP_TYPE)


def operator_attributes(structure: Structure, geometry: ConvGeometry) -> dict[str, Any]:
    """The node's attributes, as plain Python values."""
    return {
        "ranks": list(structure.ranks),
        "rank_axes": [factor.rank_axes for factor in structure.factors],
        **conv_attributes(geometry),
    }


def read_node(node: ir.Node) -> OperatorNode:
    """Structure and geometry from a node whose factors have static shapes."""
    attributes = node.attributes
    letters = attributes["rank_axes"].as_strings()
    factors = []
    for axes, value in zip(letters, node.inputs[2:], strict=True):
        if value is None or value.shape is None:
            raise ValueError(f"{node.name}: a factor without a shape")
        f, c, h, w = (int(str(size)) for size in value.shape[len(axes) :])
        factors.append(FactorShape(axes, f, c, h, w))
    structure = Structure(node.metadata_props[METHOD_KEY], tuple(attributes["ranks"].as_ints()), tuple(factors))
    kernel_h, kernel_w = attributes["kernel_shape"].as_ints()
    stride_h, stride_w = attributes["strides"].as_ints()
    top, left, bottom, right = attributes["pads"].as_ints()
    dilation_h, dilation_w = attributes["dilations"].as_ints()
    geometry = ConvGeometry(
        (kernel_h, kernel_w),
        (stride_h, stride_w),
        (top, left, bottom, right),
        (dilation_h, dilation_w),
        attributes["group"].as_int(),
    )
    return OperatorNode(node.metadata_props[SITE_KEY], structure, geometry)


def attach_functions(model: ir.Model) -> None:
    """Give each KroneckerConv node its meaning as a local function, so that ONNX Runtime runs the un-lowered model.

    The body is the definition: Einsum of the factors, Reshape to [F, C / group, kh, kw], Conv. Nodes of equal structure
    and geometry share one function; functions are told apart by ``overload`` (IR 10), which the un-lowered
    file therefore has. Compilers are never given this file.
    """
    overloads: dict[tuple[Structure, ConvGeometry], str] = {}
    for node in model.graph:
        if not is_kronecker(node):
            continue
        meaning = read_node(node)
        key = (meaning.structure, meaning.geometry)
        if key not in overloads:
            overloads[key] = f"form{len(overloads)}"
            function = _definition(*key, overload=overloads[key], opset=model.opset_imports[""])
            model.functions[function.identifier()] = function
        node.overload = overloads[key]
    if overloads:
        model.opset_imports[DOMAIN] = VERSION
        model.ir_version = max(model.ir_version, 10)


def _definition(structure: Structure, geometry: ConvGeometry, overload: str, opset: int) -> ir.Function:
    inputs = [ir.Value(name=name) for name in ("X", "B", *(f"A_{k + 1}" for k in range(len(structure.factors))))]
    tape = ir.tape.Tape()
    modes = tape.op("Einsum", inputs[2:], {"equation": einsum_equation(structure)})
    shape = tape.op("Constant", [], {"value_ints": list(structure.weight_shape)})
    weight = tape.op("Reshape", [modes, shape])
    output = tape.op("Conv", [inputs[0], weight, inputs[1]], conv_attributes(geometry))
    graph = ir.Graph(inputs, [output], nodes=tape.nodes, opset_imports={"": opset})
    NameFixPass()(ir.Model(graph, ir_version=10))
    attributes = [ir.Attr(name, ir.AttributeType.UNDEFINED, None) for name in operator_attributes(structure, geometry)]
    return ir.Function(DOMAIN, OP_TYPE, overload, graph=graph, attributes=attributes)


def conv_attributes(geometry: ConvGeometry) -> dict[str, Any]:
    """Attributes of a standard Conv."""
    return {
        "kernel_shape": list(geometry.kernel),
        "strides": list(geometry.stride),
        "pads": list(geometry.pads),
        "dilations": list(geometry.dilation),
        "group": geometry.group,
    }
