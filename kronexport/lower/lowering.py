"""The stage ``lower``: from the exported graph to standard operators at the target's opset."""

from collections.abc import Mapping

import onnx_ir as ir

from kronexport.lower.cleanup import clean_up
from kronexport.lower.kronecker import LowerKronecker
from kronexport.lower.opset import StepDownOpset
from kronexport.lower.peepholes import peephole
from kronexport.lower.standard import check_standard


def lower(exported: ir.Model, forms: Mapping[str, str], opset: int) -> ir.Model:
    """A lowered copy of ``exported`` with the same inputs and outputs.

    Args:
        exported: as ``export_onnx`` gives it; not changed.
        forms: name of a form for each KroneckerConv site; empty for a dense model.
        opset: the target's; the model is stepped down to it, never raised.

    Raises:
        UserInputError: a form or an operator cannot be lowered, which is named.
        VerificationError: the result is not a valid model of standard operators.
    """
    model = exported.clone()
    LowerKronecker(forms)(model)
    model = peephole(clean_up(model))
    for value, original in zip(model.graph.outputs, exported.graph.outputs, strict=True):
        value.name = original.name  # clean-up renames an output that it merged with another
    StepDownOpset(opset)(model)
    check_standard(model)
    return model
