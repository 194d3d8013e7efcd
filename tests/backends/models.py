"""A tiny real model for every backend: y = relu(conv(x, w) + b), 3 to 4 channels, 3x3, at the opset of any target."""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from kronexport.precision.quantize import Scheme, quantized

SHAPE = (1, 3, 8, 8)


def save_tiny_model(path: Path, *, opset: int = 17, ir_version: int = 8) -> Path:
    """Writes the model to ``path``; its input is x [1, 3, 8, 8], its output y [1, 4, 8, 8]."""
    random = np.random.default_rng(0)
    weight = numpy_helper.from_array(random.normal(size=(4, 3, 3, 3)).astype(np.float32), "w")
    bias = numpy_helper.from_array(random.normal(size=4).astype(np.float32), "b")
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["y"], "relu"),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4, 8, 8))],
        [weight, bias],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version), path)
    return path


def images(samples: int = 1) -> NDArray[np.float32]:
    """Seeded normal input [samples, 3, 8, 8]."""
    return np.random.default_rng(1).normal(size=(samples, *SHAPE[1:])).astype(np.float32)


def quantized_tiny_model(path: Path) -> Path:
    """Puts the model at ``path`` into int8, as TensorRT reads it."""
    feeds = [{"x": image[None]} for image in images(8)]
    onnx.save(quantized(onnx.load(path), feeds, Scheme(symmetric=True)), path)
    return path


def dynamic_tiny_model(path: Path) -> Path:
    """Writes the tiny model for any number of samples at once to ``path``, at the opset of any target."""
    model = onnx.load(save_tiny_model(path, opset=13, ir_version=7))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(model, path)
    return path
