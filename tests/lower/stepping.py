"""Steps a small model down and asks whether it is still valid and still computes the same."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from kronexport.lower.opset import IR_VERSIONS, StepDownOpset

FLOAT32_EPSILON = float(np.finfo(np.float32).eps)


def model(
    nodes: str, *, x: str = "float[2,4,6,5]", y: str = "float[a,b,c,d]", constants: str = "", opset: int = 18
) -> ir.Model:
    """A model from ``x`` to ``y`` in ONNX text; ``constants`` such as ``int64[2] axes = {2, 3}``."""
    return ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["": {opset}]> net ({x} x) => ({y} y) <{constants}> {{ {nodes} }}'
    )


def run(net: ir.Model) -> list[NDArray[np.float32]]:
    """Outputs for inputs drawn from one seed; a dynamic axis is 3 long."""
    session = onnxruntime.InferenceSession(ir.to_proto(net).SerializeToString(), providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(7)
    feeds = {
        value.name: generator.normal(size=[size if isinstance(size, int) else 3 for size in value.shape]).astype(
            np.float32
        )
        for value in session.get_inputs()
    }
    return list(session.run(None, feeds))


def op_types(net: ir.Model) -> list[str]:
    return [node.op_type for node in net.graph]


def assert_steps_down(net: ir.Model, opset: int) -> None:
    """Step ``net`` down in place: it must be valid at ``opset`` and compute what it did, up to rounding."""
    before = run(net)
    assert StepDownOpset(opset)(net).modified
    proto = ir.to_proto(net)
    onnx.checker.check_model(proto, full_check=True)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", opset)]
    assert proto.ir_version == IR_VERSIONS[opset]
    for ours, reference in zip(run(net), before, strict=True):
        assert ours.shape == reference.shape
        np.testing.assert_allclose(
            ours, reference, rtol=0, atol=20 * FLOAT32_EPSILON * max(1.0, float(abs(reference).max(initial=0)))
        )
