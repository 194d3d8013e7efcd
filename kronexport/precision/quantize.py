"""Static int8 with explicit Q/DQ pairs (onnxruntime.quantization): what every runtime here reads.

Weights are symmetric per output channel. Activations are unsigned with a zero point for CPUs, whose kernels are for
unsigned times signed; TensorRT takes symmetric signed ones alone (``symmetric.py``, ``groups.py``).

Beside unsigned activations weights have 7 bits, -64 to 64: x86 CPUs without VNNI add up two products in 16 bits, which
saturate beyond 32767, in ONNX Runtime and OpenVINO alike, and a bundle does not know which CPU it will run on. On
ResNet-20 with weights of 8 bits that moved the outputs by 17 %.
"""

import io
import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from kronexport.errors import KronexportError
from kronexport.lower.memory import ACTIVATIONS
from kronexport.precision import symmetric
from kronexport.precision.groups import refused_groups
from kronexport.records import Ranges

QUANTIZER_VERSION: Final = 2
"""To be raised when models are quantized otherwise, so that times of the earlier ones are left alone."""

SCALE: Final = 2.0 / 255
"""Of the 8-bit input and output of a layer that is timed alone, which are floats to the layer itself."""

_METHODS: Final[Mapping[Ranges, CalibrationMethod]] = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
_HELD: Final = 8
"""Samples whose activations are held at once, all tensors of them, where ranges come of histograms."""

_ELEMENT: Final = onnx.TensorProto.UINT8
_NARROW: Final = frozenset({"Conv", "Add"})
"""Operators whose kernels in int8 give 8 bits to a MaxPool behind them."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a target wants its numbers. ``symmetric``: as TensorRT reads them, signed and without zero points."""

    symmetric: bool = False
    ranges: Ranges = "minmax"

    def refused(self, graph: onnx.GraphProto) -> dict[str, str]:
        """By name the Convs that the runtime has no int8 for, each with the reason; ``quantized`` leaves them float."""
        return refused_groups(graph) if self.symmetric else {}


def quantized(
    model: onnx.ModelProto,
    feeds: Sequence[Mapping[str, NDArray[Any]]],
    scheme: Scheme,
    keep_float: Collection[str] = (),
) -> onnx.ModelProto:
    """The model with Q/DQ pairs around what is computed in int8; its inputs and outputs stay float.

    Args:
        model: standard operators, opset 13 or newer, static shapes.
        feeds: calibration inputs by name, each of the model's own batch.
        scheme: of the target.
        keep_float: names of nodes to leave as they are.

    Raises:
        KronexportError: the model cannot be quantized.
    """
    kind = QuantType.QInt8 if scheme.symmetric else QuantType.QUInt8
    in_float = {*keep_float, *scheme.refused(model.graph)}
    in_float |= _pools_of_float(model.graph, in_float) | _not_understood(model.graph, scheme)
    reader = _Reader(feeds)
    options = {
        "ForceQuantizeNoInputCheck": True,  # a Transpose or Reshape between two layers in int8 moves bytes, not floats
        **(symmetric.OPTIONS if scheme.symmetric else {}),
        **({} if scheme.ranges == "minmax" else {"CalibStridedMinMax": reader.stride}),  # of any method, by its name
    }
    with _quiet(), tempfile.TemporaryDirectory(prefix="kronexport-int8-") as folder:
        source, path = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)  # a model in memory would be changed
        try:
            quantize_static(
                source,
                path,
                reader,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=kind,
                weight_type=QuantType.QInt8,
                reduce_range=not scheme.symmetric,
                nodes_to_exclude=sorted(in_float),
                calibrate_method=_METHODS[scheme.ranges],
                extra_options=options,
            )
        except Exception as error:  # whatever the quantizer makes of an operator
            raise KronexportError(f"int8: the model cannot be quantized: {error}") from error
        result = onnx.load(path)
    if scheme.symmetric:
        symmetric.without_pairs_that_split(result.graph)
        del result.graph.value_info[:]  # of what is no longer there, too
    return onnx.shape_inference.infer_shapes(result, strict_mode=True)


def _not_understood(graph: onnx.GraphProto, scheme: Scheme) -> set[str]:
    """The nodes of which the quantizer would make something else.

    A Gemm loses its beta. Unsigned, a Relu or Clip gives its own range to what it reads, which is wrong where that is
    an output of the graph, and is taken away, for saturation does the same, which it does not where 0 is cut off. The
    bias of a ConvTranspose in groups has more scales than its weight.
    """
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    returned = {output.name for output in graph.output}

    def cuts_zero_off(clip: onnx.NodeProto) -> bool:
        bounds = [constants.get(name) if name else None for name in (*clip.input, "", "")[1:3]]
        is_unknown = any(bound is None and name for bound, name in zip(bounds, clip.input[1:], strict=False))
        low, high = bounds
        return is_unknown or (low is not None and float(low) > 0) or (high is not None and float(high) < 0)

    def is_not_understood(node: onnx.NodeProto) -> bool:
        attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type == "Gemm":
            return bool(attributes.get("beta", 1.0) != 1.0)
        if scheme.symmetric:
            return False
        if node.op_type == "ConvTranspose":
            weight = constants.get(node.input[1])
            has_more = weight is None or weight.shape[1] > 1
            return bool(attributes.get("group", 1) > 1) and len(node.input) > 2 and has_more  # noqa: PLR2004  # has a bias
        return node.op_type in ACTIVATIONS and (
            node.input[0] in returned or (node.op_type == "Clip" and cuts_zero_off(node))
        )

    return {node.name for node in graph.node if is_not_understood(node)}


def _pools_of_float(graph: onnx.GraphProto, in_float: Collection[str]) -> set[str]:
    """The MaxPools that read what no kernel in int8 makes: those take as much of a float, and quantize what is left.

    ONNX Runtime has a fast MaxPool of 8 bits behind a Conv or Add of 8 bits alone. On ResNet-18 one that was not behind
    them took 6.8 ms of 20, and 0.2 ms in float. The result is the same, for rounding keeps the order of numbers.
    """
    makers = {output: node for node in graph.node for output in node.output}

    def is_narrow(value: str) -> bool:
        node = makers.get(value)
        while node is not None and node.op_type in ACTIVATIONS:
            node = makers.get(node.input[0])
        return node is not None and node.op_type in _NARROW and node.name not in in_float

    return {node.name for node in graph.node if node.op_type == "MaxPool" and not is_narrow(node.input[0])}


def quantized_layer(model: onnx.ModelProto, keep_float: Collection[str] = ()) -> onnx.ModelProto:
    """One layer as it stands in a quantized network: its one input and its one output are 8 bits wide.

    Its ranges are those of seeded noise, for time does not depend on them.

    Args:
        model: one input and one output.
        keep_float: as of ``quantized``.
    """
    source, result = model.graph.input[0], model.graph.output[0]
    shape = [dimension.dim_value for dimension in source.type.tensor_type.shape.dim]
    noise = np.random.default_rng(0).standard_normal(shape, np.float32)
    layer = quantized(model, [{source.name: noise}], Scheme(), keep_float)
    _narrow_input(layer.graph, source.name)
    _narrow_output(layer.graph, result.name)
    return layer


def _narrow_input(graph: onnx.GraphProto, name: str) -> None:
    """Its Q goes; where it has none, since a float node reads it, it gets a DQ."""
    readers = [node for node in graph.node if name in node.input]
    if [node.op_type for node in readers] == ["QuantizeLinear"]:
        graph.node.remove(readers[0])
        _rename(graph, readers[0].output[0], name)
    else:
        _rename(graph, name, f"{name}.float")
        node = onnx.helper.make_node(
            "DequantizeLinear", [name, *_scale(graph)], [f"{name}.float"], f"{name}.dequantize"
        )
        graph.node.insert(0, node)
    graph.input[0].type.tensor_type.elem_type = _ELEMENT


def _narrow_output(graph: onnx.GraphProto, name: str) -> None:
    """Its DQ goes; where it has none, since a float node makes it, it gets a Q."""
    (last,) = (node for node in graph.node if name in node.output)
    if last.op_type == "DequantizeLinear":
        graph.node.remove(last)
        _rename(graph, last.input[0], name)
    else:
        _rename(graph, name, f"{name}.float")
        node = onnx.helper.make_node("QuantizeLinear", [f"{name}.float", *_scale(graph)], [name], f"{name}.quantize")
        graph.node.append(node)
    graph.output[0].type.tensor_type.elem_type = _ELEMENT


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """A value within the graph, wherever nodes make and read it."""
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]


def _scale(graph: onnx.GraphProto) -> list[str]:
    """Names of the initializers of the input's and output's scale and zero point, added where they are not there."""
    names = ["int8.scale", "int8.zero"]
    if names[0] not in {tensor.name for tensor in graph.initializer}:
        values: list[NDArray[Any]] = [np.array(SCALE, np.float32), np.array(128, np.uint8)]
        graph.initializer.extend(map(onnx.numpy_helper.from_array, values, names))
    return names


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # the library is untyped
    """Feeds one after the other; ``stride`` of them at once where all of their activations are held."""

    def __init__(self, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        batch = len(next(iter(feeds[0].values())))
        most = min(len(feeds), max(1, _HELD // batch))
        self.stride = next(size for size in range(most, 0, -1) if len(feeds) % size == 0)  # onnxruntime wants it whole
        self._feeds = feeds
        self._left = iter(feeds)

    def __len__(self) -> int:
        return len(self._feeds)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._left = iter(self._feeds[start_index:end_index])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        feed = next(self._left, None)
        return None if feed is None else dict(feed)


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer logs to the root logger, and prints, what concerns nobody here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
