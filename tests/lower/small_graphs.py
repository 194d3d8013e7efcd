"""Graphs of a few lines as onnx text, run before and after a pass, which must leave what they compute."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx_ir.passes.common import ShapeInferencePass

from kronexport.lower.graph_edit import SITE_MARK, static_shape

TOLERANCE = 1e-5


def graph(signature: str, body: str, constants: Mapping[str, NDArray[Any]]) -> ir.Model:
    """A model of opset 18 with all its shapes, as if every node were a factorized layer's.

    ``signature`` is such as ``float[1,4,3,3] x => float[1,4,3,3] y``.
    """
    inputs, _, outputs = signature.partition("=>")
    text = f'<ir_version: 8, opset_import: ["" : 18]> small ({inputs}) => ({outputs}) {{ {body} }}'
    tensors = [ir.tensor(np.array(array), name=name) for name, array in constants.items()]
    model = ir.from_onnx_text(text, initializers=tensors)
    for value, tensor in zip(model.graph.initializers.values(), tensors, strict=True):
        value.shape, value.dtype = ir.Shape(constants[str(value.name)].shape), tensor.dtype
    ShapeInferencePass(strict_mode=True)(model)
    for node in model.graph:
        node.meta[SITE_MARK] = True
    return model


def floats(*shape: int) -> NDArray[np.float32]:
    """Standard normal, seeded by the shape."""
    return np.random.default_rng(shape).standard_normal(shape, np.float32)


def shuffle(source: str, target: str, sizes: tuple[int, ...], axes: tuple[int, ...] = ()) -> str:
    """The lines of a shuffle of an image [1, C, 3, 3]: C is split into ``sizes``, put into the order ``axes``.

    Without ``axes`` the order is reversed: (a, b) becomes (b, a).
    """
    split = ", ".join(map(str, (1, *sizes, 3, 3)))
    rank = len(sizes)
    perm = ", ".join(str(axis + 1) for axis in (-1, *(axes or reversed(range(rank))), rank, rank + 1))
    return (
        f"{target}_split = Constant<value_ints = [{split}]>() "
        f"{target}_whole = Constant<value_ints = [1, {math.prod(sizes)}, 3, 3]>() "
        f"{target}_parts = Reshape({source}, {target}_split) "
        f"{target}_moved = Transpose<perm = [{perm}]>({target}_parts) "
        f"{target} = Reshape({target}_moved, {target}_whole) "
    )


def run(model: ir.Model, inputs: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """What the model gives, by ONNX Runtime without its own optimizations."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    found: list[NDArray[np.float32]] = session.run(None, dict(inputs))
    return found


def outputs(model: ir.Model) -> list[NDArray[np.float32]]:
    """What the model gives for seeded inputs."""
    return run(model, {str(x.name): floats(*(static_shape(x) or ())) for x in model.graph.inputs})


def assert_same_outputs(after: ir.Model, before: list[NDArray[np.float32]]) -> None:
    """Relative L2 error at most 1e-5, output by output."""
    for found, wanted in zip(outputs(after), before, strict=True):
        assert found.shape == wanted.shape
        assert np.linalg.norm(found - wanted) <= TOLERANCE * np.linalg.norm(wanted)


def operators_after(model: ir.Model, improve: ir.passes.PassBase) -> Counter[str]:
    """Operators that ``improve`` leaves, without Constant and Identity; outputs must be as before.

    ``improve`` must tell the truth about whether it modified the model.
    """
    before, wanted = ir.to_proto(model).SerializeToString(), outputs(model)
    result = improve(model)
    assert result.modified == (ir.to_proto(model).SerializeToString() != before)
    assert_same_outputs(result.model, wanted)
    counted = Counter(node.op_type for node in result.model.graph)
    del counted["Constant"], counted["Identity"]
    return counted
