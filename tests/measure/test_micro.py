"""Micro-models: what the network would run, and one key for what takes the same time."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from kronexport import agent
from kronexport.export.onnx_export import EXPORTER_OPSET
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.lower.forms import DENSE, Form, dense_form, generate_forms
from kronexport.measure.micro import INPUT, Trial, graph_key, micro_key, micro_model
from kronexport.records import ConvGeometry, Structure
from tests.strategies import METHOD_STRUCTURES

GEOMETRY = ConvGeometry((3, 3), stride=(2, 1), pads=(1, 0, 1, 2))
SIZE = (9, 7)
PAIR = gkpd_structure((2, 3, 1, 1), (4, 2, 3, 3), 2)
FORMS = {form.name: form for form in generate_forms(PAIR, GEOMETRY, SIZE)}
GROUPED, FOLDED = FORMS["grouped-2-1"], FORMS["folded-2-1"]
TRIAL = Trial(GROUPED, 2, has_bias=True, activation="Relu")


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def key(form: Form, *, batch: int = 1, has_bias: bool = True) -> str:
    return micro_key(Trial(form, batch, has_bias), EXPORTER_OPSET)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("structure", [PAIR, METHOD_STRUCTURES[1], METHOD_STRUCTURES[6]], ids=str)
def test_every_form_runs_and_all_compute_the_same(
    runtime: str, structure: Structure, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """The seeded factors are alike in all forms of a structure, so the dense form's output is the reference."""
    x = np.random.default_rng(1).standard_normal((2, structure.weight_shape[1], *SIZE)).astype(np.float32)
    outputs = {}
    for form in generate_forms(structure, GEOMETRY, SIZE):
        ir.save(micro_model(Trial(form, 2, has_bias=True, activation="Relu"), EXPORTER_OPSET), tmp_path / "m.onnx")
        outputs[form.name] = agent.open_session(runtime, str(tmp_path / "m.onnx"), 1).run({INPUT: x})["y"]
    for name, output in outputs.items():
        with subtests.test(name):
            assert output.shape == (2, structure.weight_shape[0], *GEOMETRY.output_size(SIZE))
            assert output.min() >= 0
            assert agent.rel_l2(output, outputs[DENSE]) < 1e-5


def test_in_int8_a_trial_has_a_key_of_its_own_for_each_set_of_convs_in_float() -> None:
    """In float there is nothing to choose."""
    trials = [replace(TRIAL, float_steps=steps) for steps in ((), (0,), (1,), (0, 1))]
    assert len({micro_key(trial, EXPORTER_OPSET, "int8") for trial in trials}) == 4
    assert len({micro_key(trial, EXPORTER_OPSET) for trial in trials}) == 1
    assert micro_key(TRIAL, EXPORTER_OPSET) != micro_key(TRIAL, EXPORTER_OPSET, "int8")


@pytest.mark.parametrize("steps", [(), (1,)])
def test_in_int8_it_is_what_stands_between_layers_in_int8(steps: tuple[int, ...]) -> None:
    """Convs in float read float weights, all others integers; 8 bits at both ends."""
    model = micro_model(replace(TRIAL, float_steps=steps), EXPORTER_OPSET, "int8")
    assert {value.dtype for value in (*model.graph.inputs, *model.graph.outputs)} == {ir.DataType.UINT8}
    convs = [node for node in model.graph if node.op_type == "Conv"]
    in_float = [index for index, conv in enumerate(convs) if conv.inputs[1] in model.graph.initializers.values()]
    assert in_float == list(steps)


@pytest.mark.parametrize(("opset", "ir_version"), [(13, 7), (17, 8), (18, 8)])
def test_it_is_written_at_the_opset_of_the_target(opset: int, ir_version: int) -> None:
    model = micro_model(TRIAL, opset)
    assert (model.opset_imports[""], model.ir_version) == (opset, ir_version)


def test_a_grouped_layer_has_the_channels_of_all_groups() -> None:
    """C of the weight is that of one group, as in ONNX Conv."""
    form = dense_form((8, 3, 3, 3), replace(GEOMETRY, group=4), SIZE)
    model = micro_model(Trial(form, 1, has_bias=False), EXPORTER_OPSET)
    (conv,) = model.graph
    assert conv.attributes["group"].as_int() == 4
    assert tuple(model.graph.inputs[0].shape or ()) == (1, 12, *SIZE)


def test_what_is_behind_the_layer_is_there_only_if_it_is_asked_for() -> None:
    """A folded form adds its bias with a node of its own, which a layer without bias does not have."""
    with_all = operators(micro_model(Trial(FOLDED, 1, has_bias=True, activation="Relu"), EXPORTER_OPSET))
    bare = operators(micro_model(Trial(FOLDED, 1, has_bias=False), EXPORTER_OPSET))
    assert with_all == [*bare, "Add", "Relu"]


def test_a_batch_norm_is_a_bias_to_a_form_that_takes_it_in_and_a_node_to_another() -> None:
    normed = [Trial(form, 1, has_bias=False, has_norm=True) for form in (GROUPED, FOLDED)]
    assert micro_key(normed[0], EXPORTER_OPSET) == key(GROUPED)
    bare = operators(micro_model(Trial(FOLDED, 1, has_bias=False), EXPORTER_OPSET))
    assert operators(micro_model(normed[1], EXPORTER_OPSET)) == [*bare, "BatchNormalization"]


def test_all_structures_share_one_dense_model() -> None:
    """It is one reference for all forms of the layer."""
    other = generate_forms(gkpd_structure((4, 1, 3, 1), (2, 6, 1, 3), 3), GEOMETRY, SIZE)[0]
    left_dense = dense_form((8, 6, 3, 3), GEOMETRY, SIZE)
    assert key(FORMS[DENSE]) == key(other) == key(left_dense)
    assert TRIAL.dense == replace(TRIAL, form=left_dense)


def test_what_changes_the_time_changes_the_key() -> None:
    keys = [key(form) for form in FORMS.values()]
    keys += [key(FOLDED, has_bias=False), key(FOLDED, batch=2)]
    keys += [key(dense_form((8, 6, 3, 3), replace(GEOMETRY, stride=(1, 1)), SIZE))]
    keys += [key(dense_form((8, 6, 3, 3), GEOMETRY, (9, 9))), key(dense_form((8, 5, 3, 3), GEOMETRY, SIZE))]
    keys += [micro_key(replace(TRIAL, batch=1), 18), micro_key(replace(TRIAL, batch=1), 17)]
    assert len(set(keys)) == len(keys)


def test_neither_names_nor_weights_change_the_key() -> None:
    model = micro_model(TRIAL, EXPORTER_OPSET)
    before = graph_key(model)
    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        assert tensor is not None
        if tensor.dtype.is_floating_point():
            value.const_value = ir.tensor(tensor.numpy() + 1)
    for node in model.graph:
        node.name = f"other {node.name}"
        node.outputs[0].name = f"other {node.outputs[0].name}"
    assert graph_key(model) == before


def test_the_target_of_a_reshape_changes_the_key() -> None:
    """It is an integer constant: two forms may differ in nothing else."""
    model = micro_model(TRIAL, EXPORTER_OPSET)
    before = graph_key(model)
    reshape = next(node for node in model.graph if node.op_type == "Reshape")
    target = reshape.inputs[1]
    assert target is not None
    assert target.const_value is not None
    target.const_value = ir.tensor(target.const_value.numpy()[::-1].copy())
    assert graph_key(model) != before


def test_in_fp16_it_is_what_stands_between_layers_in_fp16(tmp_path: Path) -> None:
    """No Casts: neighbours have none. It runs, and has a key of its own."""
    model = micro_model(TRIAL, EXPORTER_OPSET, "fp16")
    assert "Cast" not in operators(model)
    assert operators(model) == operators(micro_model(TRIAL, EXPORTER_OPSET))
    kinds = {value.dtype for value in (*model.graph.inputs, *model.graph.outputs)}
    assert kinds == {ir.DataType.FLOAT16}
    ir.save(model, tmp_path / "m.onnx")
    session = agent.open_session("onnxruntime", str(tmp_path / "m.onnx"), 1)
    x = np.random.default_rng(1).standard_normal((2, PAIR.weight_shape[1], *SIZE)).astype(np.float16)
    assert session.run({INPUT: x})["y"].dtype == np.float16
    assert micro_key(TRIAL, EXPORTER_OPSET) != micro_key(TRIAL, EXPORTER_OPSET, "fp16")
