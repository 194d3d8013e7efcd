"""A form with its numbers: weights for each step, and the ONNX nodes of the whole chain."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from kronexport.export.operator import conv_attributes
from kronexport.factorize.network import KroneckerNetwork
from kronexport.lower.axes import BATCH_AXIS, factor_axes
from kronexport.lower.forms import Form, Step
from kronexport.lower.graph_edit import SITE_MARK
from kronexport.lower.layouts import Axes
from kronexport.lower.merge import merged_network
from kronexport.records import Pair


class Emitter:
    """Writes the nodes of one site: a Conv a step, Reshape and Transpose between them where a form needs them.

    Nodes and initializers are named after the site. ``scale`` [F] (a BatchNorm's, or None) multiplies the output
    before ``shift`` [F] is added; a form that does not absorb both refuses a scale.
    """

    def __init__(self, form: Form, network: KroneckerNetwork, site: str) -> None:
        self.form = form
        self.network = merged_network(network, form.partition)
        self.site = site
        self.dtype = network.factors[0].dtype
        self.tape = ir.tape.Tape()
        self.count = 0

    def emit(self, x: ir.Value, scale: NDArray[Any] | None, shift: NDArray[Any]) -> ir.Value:
        """Append the chain to ``self.tape``; returns its output [N, F, H', W']."""
        if scale is not None and not self.form.absorbs_affine:
            raise ValueError(f"{self.site}: form {self.form.name} cannot absorb a scale")
        if not self.form.steps:
            return self._emit_dense(x, scale, shift)
        value, size = x, self.form.input_size
        for index, step in enumerate(self.form.steps):
            value = self._rearrange(value, step.transpose_from, step.source, size)
            value = self._reshape(value, self._image(step, step.inputs, size))
            weight = self._weight(step)
            bias = None
            if index == len(self.form.steps) - 1:
                weight, bias = self._affine(step, weight, scale, shift)
            value = self._conv(value, weight, bias, step)
            size = step.contraction.output_size
        value = self._rearrange(value, self.form.final_transpose_from, self.form.output_axes, size)
        value = self._reshape(value, [-1, self.form.channels(self.form.output_axes), *size])
        if not self.form.absorbs_affine and np.any(shift):
            value = self._op("Add", [value, self._constant("bias", shift.reshape(1, -1, 1, 1))], {})
        return value

    def _emit_dense(self, x: ir.Value, scale: NDArray[Any] | None, shift: NDArray[Any]) -> ir.Value:
        weight = self.network.to_dense()
        if scale is not None:
            weight = weight * scale.reshape(-1, 1, 1, 1)
        inputs = [x, self._constant("weight", weight), self._constant("bias", shift)]
        return self._op("Conv", inputs, conv_attributes(self.form.geometry))

    def _weight(self, step: Step) -> NDArray[np.float64]:
        """The factor as [groups..., outputs..., inputs..., h, w]: summed, permuted, repeated, made block-diagonal."""
        k = step.contraction.factor
        own = factor_axes(self.network.structure, k)
        wanted = [*step.groups, *step.outputs, *(axis for axis in step.inputs if axis not in step.outputs)]
        factor = self.network.factors[k]
        factor = factor.reshape(*(self.form.sizes[axis] for axis in own), *factor.shape[-2:])
        unused = tuple(position for position, axis in enumerate(own) if axis not in wanted)
        factor = factor.sum(axis=unused)
        kept = [axis for axis in own if axis in wanted]
        factor = factor.transpose(*(kept.index(axis) for axis in wanted if axis in kept), -2, -1)
        # an expanded axis is a dimension of the outputs and, by the diagonal, one of the inputs
        dimensions = [*step.groups, *step.outputs, *step.inputs]
        firsts = [axis in kept and dimensions.index(axis) == index for index, axis in enumerate(dimensions)]
        sizes = [self.form.sizes[axis] for axis in dimensions]
        ones = [size if first else 1 for first, size in zip(firsts, sizes, strict=True)]
        weight = factor.reshape(*ones, *factor.shape[-2:])
        for index, axis in enumerate(dimensions):
            if (row := dimensions.index(axis)) != index:
                shape = [self.form.sizes[axis] if at in (row, index) else 1 for at in range(len(dimensions))]
                weight = weight * np.eye(self.form.sizes[axis]).reshape(*shape, 1, 1)
        return np.broadcast_to(weight, (*sizes, *factor.shape[-2:]))

    def _affine(
        self, step: Step, weight: NDArray[np.float64], scale: NDArray[Any] | None, shift: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Scale the last weight and order the bias as its output channels are; no bias if some are no channels."""
        if not self.form.absorbs_affine:
            return weight, None
        channels = (*step.groups, *step.outputs)
        natural = [axis for axis in self.form.output_axes if axis != BATCH_AXIS]
        order = [natural.index(axis) for axis in channels]

        def reorder(values: NDArray[Any]) -> NDArray[np.float64]:
            sizes = [self.form.sizes[axis] for axis in natural]
            return values.astype(np.float64).reshape(sizes).transpose(order)

        if scale is not None:
            ordered = reorder(scale)
            weight = weight * ordered.reshape(*ordered.shape, *(1 for _ in range(weight.ndim - ordered.ndim)))
        return weight, reorder(shift).reshape(-1)

    def _conv(self, x: ir.Value, weight: NDArray[np.float64], bias: NDArray[np.float64] | None, step: Step) -> ir.Value:
        groups = self.form.channels(step.groups)
        filters = groups * self.form.channels(step.outputs)
        flat = np.ascontiguousarray(weight).reshape(filters, self.form.channels(step.inputs), *weight.shape[-2:])
        inputs = [x, self._constant(f"step{self.count}.weight", flat)]
        if bias is not None:
            inputs.append(self._constant("bias", bias))
        attributes = conv_attributes(replace(step.contraction.geometry, group=groups))
        shape = self._image(step, step.outputs, step.contraction.output_size)
        return self._op("Conv", inputs, attributes, shape)

    def _rearrange(self, x: ir.Value, before: Axes | None, after: Axes, size: Pair) -> ir.Value:
        if before is None:
            return x
        x = self._reshape(x, [*(self._size(axis) for axis in before), *size])
        permutation = [*(before.index(axis) for axis in after), len(before), len(before) + 1]
        shape = [*(self._size(axis) for axis in after), *size]
        return self._op("Transpose", [x], {"perm": permutation}, shape)

    def _image(self, step: Step, channels: Axes, size: Pair) -> list[int]:
        height, width = size
        return [-1, self.form.channels(step.groups + channels), self.form.channels(step.rows) * height, width]

    def _size(self, axis: str) -> int:
        return -1 if axis == BATCH_AXIS else self.form.sizes[axis]

    def _reshape(self, x: ir.Value, shape: list[int]) -> ir.Value:
        """Reshape unless the value has that shape already."""
        if x.shape is not None and _same_shape(x.shape, shape):
            return x
        target = self._constant(f"shape{self.count}", np.array(shape, np.int64))
        return self._op("Reshape", [x, target], {}, shape)

    def _constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        if array.dtype != np.int64:
            array = array.astype(self.dtype)
        return self.tape.initializer(ir.Tensor(np.ascontiguousarray(array)), name=f"{self.site}/{name}")

    def _op(
        self, op_type: str, inputs: Sequence[ir.Value], attributes: dict[str, Any], shape: Sequence[int] | None = None
    ) -> ir.Value:
        name = f"{self.site}/{self.count}.{op_type}"
        self.count += 1
        # typed here: to find the types out takes onnx_ir longer than all else in this file
        typed = {
            key: ir.AttrInt64(key, value) if isinstance(value, int) else ir.AttrInt64s(key, value)
            for key, value in attributes.items()
        }
        output = self.tape.op(op_type, inputs, typed, name=name)
        output.name = f"{name}.out"
        node = output.producer()
        assert node is not None  # noqa: S101  for the type checker
        node.meta[SITE_MARK] = True
        output.type = ir.TensorType(ir.DataType.from_numpy(self.dtype))
        if shape is not None:
            output.shape = ir.Shape([None if size == -1 else size for size in shape])
        return output


def _same_shape(shape: ir.Shape, wanted: list[int]) -> bool:
    return len(shape) == len(wanted) and all(want in (have, -1) for have, want in zip(shape.dims, wanted, strict=True))
