"""The forms generated for six structures, in golden/forms.json: a change to the generator is seen there.

``python -m tests.lower.test_golden_forms`` writes the file anew; what changed is then reviewed as a diff.
"""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir

from kronexport.factorize.cp import cp_structure
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.factorize.sekron import sekron_structure
from kronexport.factorize.tucker import tucker2_structure
from kronexport.lower.emit import Emitter
from kronexport.lower.forms import Form, generate_forms
from kronexport.records import ConvGeometry
from tests.strategies import random_network

GOLDEN = Path(__file__).parent / "golden" / "forms.json"
SAME = ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1))
INPUT_SIZE = (14, 14)

STRUCTURES = {
    "GKPD, even": gkpd_structure((8, 8, 1, 1), (8, 8, 3, 3), 2),
    "GKPD, low-rank pair": gkpd_structure((64, 1, 1, 1), (1, 64, 3, 3), 8),
    "GKPD, depthwise and pointwise": gkpd_structure((64, 64, 1, 1), (1, 1, 3, 3), 1),
    "SeKron of three": sekron_structure([(4, 4, 1, 1), (4, 4, 3, 1), (4, 4, 1, 3)], (2, 2)),
    "Tucker-2": tucker2_structure([(64, 1, 1, 1), (1, 64, 1, 1), (1, 1, 3, 3)], (16, 16)),
    "CP": cp_structure([(64, 1, 1, 1), (1, 64, 1, 1), (1, 1, 3, 1), (1, 1, 1, 3)], (32,)),
}


def described() -> dict[str, dict[str, str]]:
    """Of each structure the forms by name: what they cost, and the operators in their order."""
    return {
        label: {form.name: summary(form) for form in generate_forms(structure, SAME, INPUT_SIZE)}
        for label, structure in STRUCTURES.items()
    }


def summary(form: Form) -> str:
    network = random_network(form.structure, 0)
    filters, channels = form.structure.weight_shape[:2]
    emitter = Emitter(form, network, "layer")
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([None, channels, *form.input_size]))
    emitter.emit(x, None, np.zeros(filters, np.float32))
    operators = " ".join(node.op_type for node in emitter.tape.nodes)
    return f"{form.macs} MACs, {form.weights} weights, {form.transposes} Transposes: {operators}"


def test_the_forms_of_six_structures_are_those_of_the_golden_file() -> None:
    """Names, order, costs and operators."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    found = described()
    for label, forms in golden.items():
        assert found[label] == forms, label
        assert list(found[label]) == list(forms), label
    assert found.keys() == golden.keys()


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(described(), indent=1) + "\n", encoding="utf-8")
