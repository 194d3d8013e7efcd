"""Micro-models: one layer in one of its forms as a model of its own, which is what a form's time is measured on.

It is written by the emitter and finished by the stage that also write the network, at the target's opset, with the
layer's real batch, channels, image size, bias and activation. Weights are seeded noise: how long a CPU takes does not
depend on them, so models that differ in nothing else are one, and share one key.
"""

import functools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from kronexport.cache import content_key
from kronexport.export.onnx_export import EXPORTER_OPSET
from kronexport.factorize.network import KroneckerNetwork
from kronexport.lower.emit import Emitter
from kronexport.lower.forms import Form, dense_form
from kronexport.lower.lowering import lower
from kronexport.lower.opset import IR_VERSIONS
from kronexport.precision.half import half_layer
from kronexport.precision.quantize import QUANTIZER_VERSION, quantized_layer
from kronexport.precision.steps import float_nodes
from kronexport.records import Activation, InputSpec, Precision, Site

INPUT: Final = "x"
_LAYER: Final = "layer"


@dataclass(frozen=True, slots=True)
class Trial:
    """A form as the network would run it: what is timed.

    Attributes:
        form: One of ``generate_forms``, or ``dense_form``.
        batch: Size of the first axis that the layer sees.
        has_bias: Whether something is added to each output channel.
        activation: What follows right behind, if it is of this kind.
        has_norm: Whether a BatchNorm stands between.
        float_steps: In int8, the Convs that stay in float, counted from 0.
    """

    form: Form
    batch: int
    has_bias: bool
    activation: Activation | None = None
    float_steps: tuple[int, ...] = ()
    has_norm: bool = False

    @classmethod
    def of(cls, site: Site, form: Form) -> "Trial":
        """``form`` with what stands beside it at ``site``."""
        return cls(form, site.batch, site.has_bias, site.activation, has_norm=site.has_norm)

    @classmethod
    def left_dense(cls, site: Site) -> "Trial":
        """``site`` as it is."""
        return cls.of(site, dense_form(site.weight_shape, site.geometry, site.input_size))

    @property
    def dense(self) -> "Trial":
        """The same layer left dense."""
        form = dense_form(self.form.structure.weight_shape, self.form.geometry, self.form.input_size)
        return Trial(form, self.batch, self.has_bias, self.activation, has_norm=self.has_norm)

    @property
    def input(self) -> InputSpec:
        """The model's input [N, C, H, W]."""
        channels = self.form.structure.weight_shape[1] * self.form.geometry.group
        return InputSpec(INPUT, (self.batch, channels, *self.form.input_size))

    def __str__(self) -> str:
        steps = f", steps {self.float_steps} in float" if self.float_steps else ""
        return f"{self.form.structure} at ranks {self.form.structure.ranks}, {self.form.name}{steps}"


def micro_model(trial: Trial, opset: int, precision: Precision = "fp32") -> ir.Model:
    """The model of ``trial``: one input ``x``, static shapes, standard operators.

    Args:
        trial: What to build.
        opset: the target's, reached as the network's is: stepped down to, never raised.
        precision: of the network that the layer is part of; input and output are as wide.

    Raises:
        UserInputError: ``opset`` cannot be reached.
        VerificationError: the result is not a valid model of standard operators.
    """
    form, generator = trial.form, np.random.default_rng(0)

    def noise(shape: tuple[int, ...]) -> NDArray[np.float32]:
        return generator.standard_normal(shape, np.float32)

    x = _value(INPUT, trial.input.shape)
    structure = form.structure
    network = KroneckerNetwork(
        structure, tuple(noise(structure.factor_shape(index)) for index in range(len(structure.factors)))
    )
    filters = structure.weight_shape[0]
    emitter = Emitter(form, network, _LAYER)
    folds_norm = trial.has_norm and form.absorbs_affine
    shift = noise((filters,)) if trial.has_bias or folds_norm else np.zeros(filters, np.float32)
    output = emitter.emit(x, None, shift)
    tape = emitter.tape
    if trial.has_norm and not folds_norm:
        names = "scale", "shift", "mean", "variance"
        numbers = [tape.initializer(ir.Tensor(np.abs(noise((filters,)))), name=f"norm.{name}") for name in names]
        output = tape.op("BatchNormalization", [output, *numbers], name="norm")
    if trial.activation is not None:
        output = tape.op(trial.activation, [output], name="activation")
    shape = trial.batch, filters, *form.geometry.output_size(form.input_size)
    output.name, output.type, output.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
    graph = ir.Graph(
        [x],
        [output],
        nodes=tape.nodes,
        initializers=tape.initializers,
        opset_imports={"": EXPORTER_OPSET},
        name="micro",
    )
    model = lower(ir.Model(graph, ir_version=IR_VERSIONS[EXPORTER_OPSET]), {}, opset)
    if precision == "fp32":
        return model
    if precision == "fp16":
        return half_layer(model)
    proto = ir.to_proto(model)
    return ir.from_proto(quantized_layer(proto, float_nodes(proto.graph, {_LAYER: trial.float_steps})))


@functools.lru_cache(maxsize=65536)
def micro_key(trial: Trial, opset: int, precision: Precision = "fp32") -> str:
    """A key of ``micro_model``: equal for trials that come to the same model."""
    key = graph_key(micro_model(trial, opset))
    if precision == "fp32":
        return key
    return content_key(repr((key, precision, QUANTIZER_VERSION, trial.float_steps)).encode())


def graph_key(model: ir.Model) -> str:
    """A hash of what the time of a model depends on: its operators, attributes, wiring and shapes.

    Neither names nor the values of floating-point constants count; those of integers do, for they are shapes. Equal
    graphs whose nodes come in another order have other keys.
    """
    numbers: dict[ir.Value | None, int] = {None: -1}
    parts: list[Any] = [sorted(model.opset_imports.items()), model.ir_version]
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        parts.append(_described(value))
        numbers[value] = len(numbers)
    for node in model.graph:
        attributes = sorted(
            (name, str(attribute.type), str(attribute.value)) for name, attribute in node.attributes.items()
        )
        parts.append((node.domain, node.op_type, attributes, [numbers[value] for value in node.inputs]))
        for value in node.outputs:
            numbers[value] = len(numbers)
    parts.append([numbers[value] for value in model.graph.outputs])
    return content_key(repr(parts).encode())


def _described(value: ir.Value) -> tuple[Any, ...]:
    """Element type and shape; of an integer constant the elements too."""
    kind = str(value.dtype), str(value.shape)
    if value.const_value is None or value.const_value.dtype.is_floating_point():
        return kind
    return *kind, value.const_value.numpy().tolist()


def _value(name: str, shape: tuple[int, ...]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
