"""What each operator of a CNN was one opset version earlier: the rules of the step-down pass.

A step takes a node that is valid at ``version`` and leaves it, or what replaces it, valid at ``version`` - 1. The
changes were read in ``onnx.defs`` (schemas and text) for the versions 14 to 21.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from kronexport.lower.graph_edit import add_constant, constant_integers, input_of, replace, set_input
from kronexport.lower.opset_edit import CannotStepDownError, input_integers, input_shape, static_size

Step = Callable[[ir.Node, int], None]

INT64_MAX = int(np.iinfo(np.int64).max)


# --- attributes -----------------------------------------------------------------------------------------------


def drop_new_attributes(node: ir.Node, version: int) -> None:
    """Take away the attributes that came with ``version`` if they say what was always done: their default."""
    newer = onnx.defs.get_schema(node.op_type, version, "").attributes
    older = onnx.defs.get_schema(node.op_type, version - 1, "").attributes
    for name in sorted(set(node.attributes) & (set(newer) - set(older))):
        default = ir.serde.deserialize_attribute(newer[name].default_value).value
        value = node.attributes[name].value
        if value != default:
            raise CannotStepDownError(f"{name}={value!r} has no equal; use the default {default!r}")
        node.attributes.pop(name)


def refuse_choice(attribute: str, choice: str) -> Step:
    """A step for an operator whose string ``attribute`` learnt one more ``choice``."""

    def step(node: ir.Node, version: int) -> None:
        if node.attributes.get_string(attribute) == choice:
            raise CannotStepDownError(f"{attribute}='{choice}' has no equal; use another {attribute}")
        drop_new_attributes(node, version)

    return step


def unit_dilations(node: ir.Node, version: int) -> None:
    """AveragePool, LpPool: ``dilations`` came without a default value; absent and all ones mean the same."""
    if any(dilation != 1 for dilation in node.attributes.get_ints("dilations", ())):
        raise CannotStepDownError("dilations other than 1 have no equal; pool without dilation")
    node.attributes.pop("dilations", None)
    drop_new_attributes(node, version)


def inference_only(node: ir.Node, version: int) -> None:
    """BatchNormalization: before ``training_mode``, more than one output meant training."""
    if len(node.outputs) > 1:
        raise CannotStepDownError("running statistics as outputs have no equal; export the model in eval mode")
    drop_new_attributes(node, version)


# --- inputs ---------------------------------------------------------------------------------------------------


def reduce_axes(node: ir.Node, version: int) -> None:
    """Reduce*: the input ``axes`` becomes the attribute that it was; none given reduces over all."""
    axes = input_integers(node, 1, "axes")
    if not axes and node.attributes.get_int("noop_with_empty_axes", 0) != 0:
        raise CannotStepDownError("noop_with_empty_axes=1 without axes has no equal; name the axes")
    node.attributes.pop("noop_with_empty_axes", None)
    set_input(node, 1, None)
    if axes:
        node.attributes["axes"] = ir.AttrInt64s("axes", axes)
    drop_new_attributes(node, version)


def pad_axes(node: ir.Node, version: int) -> None:
    """Pad: pads of some ``axes`` become pads of all, begins first, then ends; zero where none was given."""
    axes = input_integers(node, 3, "axes")
    if axes is not None:
        pads = input_integers(node, 1, "pads")
        full = np.zeros((2, len(input_shape(node, 0))), dtype=np.int64)
        full[:, list(axes)] = np.reshape(np.array(pads, dtype=np.int64), (2, len(axes)))
        set_input(node, 1, add_constant(node, "pads", full.ravel()))
        set_input(node, 3, None)
    drop_new_attributes(node, version)


def resize_axes(node: ir.Node, version: int) -> None:
    """Resize: ``scales`` or ``sizes`` of some ``axes`` become those of all; the other axes keep their size."""
    axes = node.attributes.get_ints("axes")
    if axes is not None:
        if node.attributes.get_string("coordinate_transformation_mode") == "tf_crop_and_resize":
            raise CannotStepDownError("tf_crop_and_resize of chosen axes has no equal; crop with Slice instead")
        rank = len(input_shape(node, 0))
        if input_of(node, 2) is not None:
            _spread(node, 2, "scales", axes, np.ones(rank, dtype=np.float32))
        else:
            kept = [0 if axis in {a % rank for a in axes} else static_size(node, 0, axis) for axis in range(rank)]
            _spread(node, 3, "sizes", axes, np.array(kept, dtype=np.int64))
        set_input(node, 1, None)  # roi: only tf_crop_and_resize reads it
        node.attributes.pop("axes")
    drop_new_attributes(node, version)


def _spread(node: ir.Node, index: int, role: str, axes: Sequence[int], full: NDArray[Any]) -> None:
    """Replace constant input ``index``, one element for each of ``axes``, by ``full`` with these written in."""
    value = input_of(node, index)
    tensor = None if value is None or value.is_graph_input() else ir.convenience.get_const_tensor(value)
    if tensor is None:
        raise CannotStepDownError(f"its input {role} must be a constant where axes are chosen; make it one")
    full[list(axes)] = tensor.numpy()
    set_input(node, index, add_constant(node, role, full))


def split_sizes(node: ir.Node, version: int) -> None:
    """Split: ``num_outputs`` parts, the last one smaller, become the input ``split`` that lists their sizes."""
    parts = node.attributes.get_int("num_outputs")
    if parts is not None:
        size = static_size(node, 0, node.attributes.get_int("axis", 0))
        part = math.ceil(size / parts)
        last = size - part * (parts - 1)
        if last < 0:
            raise CannotStepDownError(f"{size} elements do not make {parts} parts of {part}; give their sizes")
        set_input(node, 1, add_constant(node, "split", np.array([part] * (parts - 1) + [last], dtype=np.int64)))
        node.attributes.pop("num_outputs")
    drop_new_attributes(node, version)


def reshape_zeros(node: ir.Node, version: int) -> None:
    """Reshape: ``allowzero`` can go where a 0 in the shape cannot occur, or means the same without it."""
    if node.attributes.get_int("allowzero", 0):
        if not _reads_zeros_alike(node):
            raise CannotStepDownError("allowzero=1 has no equal for a shape that may hold 0; reshape to sizes above 0")
        node.attributes.pop("allowzero")
    drop_new_attributes(node, version)


def _reads_zeros_alike(node: ir.Node) -> bool:
    """Whether Reshape gives the same with and without ``allowzero``.

    Without it, a 0 copies the input's size of that axis. So the two agree on an output axis whose size is known not to
    be 0, and on one that has the input's own size, as a dynamic batch has.
    """
    shape = node.inputs[1]
    integers = None if shape is None else constant_integers(shape)
    if integers is not None:
        return 0 not in integers
    data, output = input_shape(node, 0), node.outputs[0].shape
    if output is None:
        return False
    return all(
        size != 0 if isinstance(size, int) else size.value is not None and axis < len(data) and data[axis] == size
        for axis, size in enumerate(output.dims)
    )


# --- operators in terms of others -----------------------------------------------------------------------------


def slice_shape(node: ir.Node, version: int) -> None:
    """Shape<start, end>(x) = Shape(x)[start:end]; both clamp and count from the back alike."""
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", INT64_MAX)
    if (start, end) == (0, INT64_MAX):
        node.attributes.pop("end", None)
        drop_new_attributes(node, version)
        return
    bounds = [
        add_constant(node, role, np.array([value], dtype=np.int64))
        for role, value in (("starts", start), ("ends", end), ("axes", 0))
    ]
    tape = ir.tape.Tape()
    tape.op("Slice", [tape.op("Shape", [node.inputs[0]]), *bounds])
    replace(node, tape)


def decompose_hard_swish(node: ir.Node, version: int) -> None:  # noqa: ARG001 - every step has this signature
    """HardSwish(x) = x * HardSigmoid<alpha=1/6, beta=1/2>(x)."""
    (x,) = node.inputs
    tape = ir.tape.Tape()
    tape.op("Mul", [x, tape.op("HardSigmoid", [x], {"alpha": 1 / 6, "beta": 0.5})])
    replace(node, tape)


def decompose_mish(node: ir.Node, version: int) -> None:  # noqa: ARG001 - every step has this signature
    """Mish(x) = x * Tanh(Softplus(x))."""
    (x,) = node.inputs
    tape = ir.tape.Tape()
    tape.op("Mul", [x, tape.op("Tanh", [tape.op("Softplus", [x])])])
    replace(node, tape)


def decompose_layer_normalization(node: ir.Node, version: int) -> None:  # noqa: ARG001 - every step has this signature
    """LayerNormalization(x) = d / sqrt(mean(d * d) + epsilon) * scale + bias, with d = x - mean(x).

    Means are over ``axis`` and all axes after it. What comes before ``scale`` is computed in the type ``stash_type``.
    """
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        raise CannotStepDownError("mean and deviation as outputs have no equal; compute them with ReduceMean")
    x, scale, bias = (input_of(node, index) for index in range(3))
    if x is None or x.dtype is None:
        raise CannotStepDownError("the element type of its input 0 must be known; run shape inference first")
    rank = len(input_shape(node, 0))
    axes = list(range(node.attributes.get_int("axis", -1) % rank, rank))
    stash = ir.DataType(node.attributes.get_int("stash_type", ir.DataType.FLOAT))
    epsilon = np.array(node.attributes.get_float("epsilon", 1e-5), dtype=stash.numpy())
    tape = ir.tape.Tape()
    stashed = x if x.dtype == stash else tape.op("Cast", [x], {"to": stash})
    centred = tape.op("Sub", [stashed, tape.op("ReduceMean", [stashed], {"axes": axes, "keepdims": 1})])
    variance = tape.op("ReduceMean", [tape.op("Mul", [centred, centred])], {"axes": axes, "keepdims": 1})
    deviation = tape.op("Sqrt", [tape.op("Add", [variance, add_constant(node, "epsilon", epsilon)])])
    normal = tape.op("Div", [centred, deviation])
    if x.dtype != stash:
        normal = tape.op("Cast", [normal], {"to": x.dtype})
    scaled = tape.op("Mul", [normal, scale])
    if bias is not None:
        tape.op("Add", [scaled, bias])
    replace(node, tape)


# --- the table ------------------------------------------------------------------------------------------------

SAME_BEHAVIOUR: dict[str, tuple[int, ...]] = {
    "Add": (14,),
    "BatchNormalization": (15,),
    "Cast": (19, 21),
    "CastLike": (19, 21),
    "Constant": (19, 21),
    "ConstantOfShape": (20, 21),
    "CumSum": (14,),
    "DequantizeLinear": (19, 21),
    "Div": (14,),
    "Equal": (19,),
    "Flatten": (21,),
    "GreaterOrEqual": (16,),
    "Identity": (14, 16, 19, 21),
    "IsInf": (20,),
    "IsNaN": (20,),
    "LeakyRelu": (16,),
    "LessOrEqual": (16,),
    "Mul": (14,),
    "PRelu": (16,),
    "Pad": (21,),
    "Pow": (15,),
    "QuantizeLinear": (19, 21),
    "ReduceMax": (20,),
    "ReduceMin": (20,),
    "Relu": (14,),
    "Reshape": (19, 21),
    "Shape": (19, 21),
    "Size": (19, 21),
    "Squeeze": (21,),
    "Sub": (14,),
    "Transpose": (21,),
    "Unsqueeze": (21,),
    "Where": (16,),
}
"""Versions that only let an operator take more element types, or added attributes with the old behaviour as default."""

REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
"""Those that got ``axes`` as an input in opset 18; ReduceSum has had it since 13."""

RULES: dict[tuple[str, int], Step] = {
    **{(f"Reduce{name}", 18): reduce_axes for name in REDUCTIONS},
    ("AveragePool", 19): unit_dilations,
    ("BatchNormalization", 14): inference_only,
    ("HardSwish", 14): decompose_hard_swish,
    ("LayerNormalization", 17): decompose_layer_normalization,
    ("LpPool", 18): unit_dilations,
    ("Mish", 18): decompose_mish,
    ("Pad", 18): pad_axes,
    ("Pad", 19): refuse_choice("mode", "wrap"),
    ("Reshape", 14): reshape_zeros,
    ("Resize", 18): resize_axes,
    ("Resize", 19): refuse_choice("coordinate_transformation_mode", "half_pixel_symmetric"),
    ("Shape", 15): slice_shape,
    ("Split", 18): split_sizes,
}

STEPS: dict[tuple[str, int], Step] = {
    **{(op_type, version): drop_new_attributes for op_type, versions in SAME_BEHAVIOUR.items() for version in versions},
    **RULES,
}
"""How an operator leaves a version that changed it; a change that is not here is refused."""
