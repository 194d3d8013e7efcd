"""Peepholes: what two neighbours in the lowered graph can do at less cost together, each exact up to rounding.

Order matters: a shuffle that is gone brings Convs together, and what is left of them an activation may pass.
"""

import onnx_ir as ir
from onnx_ir.passes.common import IdentityEliminationPass

from kronexport.lower.absorb_shuffles import AbsorbShuffles
from kronexport.lower.cleanup import clean_up
from kronexport.lower.merge_convs import MergeConvs
from kronexport.lower.raise_activations import RaiseActivations


def peephole(model: ir.Model) -> ir.Model:
    """Improve in place a model that ``clean_up`` has seen; it is cleaned up again if anything was found.

    Nothing is done where shapes are unknown or dynamic. There are never more Transposes or MACs than before, nor more
    weights, but that of two layers that share one each may come to need its own.
    """
    result = ir.passes.Sequential(
        AbsorbShuffles(),
        IdentityEliminationPass(),  # what a shuffle that is gone leaves, and behind which no Conv is seen
        MergeConvs(),
        RaiseActivations(),
    )(model)
    return clean_up(result.model) if result.modified else result.model
