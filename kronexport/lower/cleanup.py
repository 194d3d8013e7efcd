"""Clean-up after lowering: BatchNorm into Conv, Pad into Conv, needless Reshape, Transpose and Identity away.

The rewrite rules are onnxscript's; each is exact up to rounding. Order matters: folding first, then what it frees.
"""

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules import common as rules

RULES = (
    rules.fuse_batchnorm_into_conv_rule,
    rules.fuse_pad_into_conv_rule,
    rules.reshape_reshape_rule,
    rules.transpose_transpose_rule,
    rules.no_op_transpose_rule,
)

MOST_ELEMENTS = 2**40
"""Of a constant that is compared with others: all of them."""


def clean_up(model: ir.Model) -> ir.Model:
    """Simplify in place; afterwards names are unique and nothing is unused."""
    sequence = ir.passes.Sequential(
        passes.IdentityEliminationPass(),
        RewritePass(RULES),
        passes.IdentityEliminationPass(),  # what two cancelled Transposes leave behind
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.DeduplicateInitializersPass(size_limit=MOST_ELEMENTS),  # the hashed one takes contiguous arrays only
        passes.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]  # its __init__ has no annotation
        passes.RemoveUnusedOpsetsPass(),
        passes.OutputFixPass(),  # a tensor that is returned twice stays two outputs
        passes.NameFixPass(),
        passes.ShapeInferencePass(),
        passes.TopologicalSortPass(),
    )
    return sequence(model).model
