"""The promise of the lowering: a valid ONNX model that holds standard operators only."""

import onnx
import onnx_ir as ir

from kronexport.errors import VerificationError

STANDARD_DOMAINS = ("", "ai.onnx")


def check_standard(model: ir.Model) -> None:
    """Raise VerificationError if a node is of another domain, or onnx.checker refuses the model."""
    foreign = sorted({f"{node.domain}::{node.op_type}" for node in model.graph if node.domain not in STANDARD_DOMAINS})
    if foreign or model.functions:
        found = foreign or sorted(str(identifier) for identifier in model.functions)
        raise VerificationError(f"lowered model: expected standard operators only, found {', '.join(found)}")
    try:
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise VerificationError(f"lowered model: onnx.checker refuses it: {error}") from error
