"""A layer factorized by any method exports as one node and lowers, in every form, to what its factors say."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import onnx_ir as ir
import pytest
import torch

from kronexport.export.module import KroneckerConv2d
from kronexport.export.onnx_export import export_onnx
from kronexport.export.operator import is_kronecker, read_node
from kronexport.factorize.decompose import decompose
from kronexport.lower import kronecker
from kronexport.lower.forms import generate_forms
from kronexport.lower.kronecker import LowerKronecker
from kronexport.records import ConvGeometry, InputSpec, Structure
from tests.lower.test_kronecker import TOLERANCE, example, oracle, relative_l2, run
from tests.strategies import METHOD_STRUCTURES, Layer

GEOMETRY = ConvGeometry((3, 3), (2, 1), (1, 0, 1, 2), (1, 2))
INPUT_SIZE = (9, 8)


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("structure", METHOD_STRUCTURES, ids=lambda s: f"{s.method}{len(s.factors)}")
def test_every_form_of_every_method_equals_to_dense(
    structure: Structure, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the module, its export and each lowering, with stride, unequal padding, dilation and groups."""
    # full Tucker has 241 forms, and each lowering would generate them all anew
    monkeypatch.setattr(kronecker, "generate_forms", lru_cache(generate_forms))
    weight = np.random.default_rng(1).standard_normal(structure.weight_shape).astype(np.float32)
    geometry = replace(GEOMETRY, group=group)
    layer = Layer(decompose(weight, structure), geometry, 1, INPUT_SIZE)
    x, bias = example(layer)
    module = KroneckerConv2d(layer.network, geometry, torch.from_numpy(bias), site="layer")
    exported = export_onnx(module, InputSpec("x", x.shape))
    (node,) = [node for node in exported.graph if is_kronecker(node)]
    assert (read_node(node).structure, read_node(node).geometry) == (structure, geometry)
    proto, reference = ir.to_proto(exported), oracle(layer, x, bias)
    for form in generate_forms(structure, geometry, INPUT_SIZE):
        lowered = ir.from_proto(proto)
        LowerKronecker({"layer": form.name})(lowered)
        assert relative_l2(run(lowered, x), reference) <= TOLERANCE, form.name
