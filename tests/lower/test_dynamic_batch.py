"""A graph for any batch: every form right at several, Reshapes of all kinds, and what cannot be written is refused."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronexport.errors import UserInputError
from kronexport.lower.dynamic_batch import at_batch, with_dynamic_batch
from kronexport.lower.forms import generate_forms
from kronexport.lower.lowering import lower
from kronexport.records import BATCH_SYMBOL
from tests.lower.small_graphs import floats, graph, run
from tests.lower.test_kronecker import TOLERANCE, example, model_of, oracle, relative_l2
from tests.strategies import Layer, layers

BATCHES = (1, 2, 5)


def text_of(batch: int, body: str, output: str, targets: dict[str, list[int]] | None = None) -> ir.Model:
    """A small graph on images [batch, 4, 3, 3]; ``targets`` are shape constants."""
    constants = {name: np.array(sizes) for name, sizes in (targets or {}).items()}
    return graph(f"float[{batch},4,3,3] x => float[{output}] y", body, constants)


def assert_right_at_all(dynamic: ir.Model, static: dict[int, ir.Model]) -> None:
    for batch, model in static.items():
        x = floats(batch, 4, 3, 3)
        assert np.array_equal(run(dynamic, {"x": x})[0], run(model, {"x": x})[0])


@settings(max_examples=30, deadline=None)
@given(layers(), st.data(), st.sampled_from([13, 17, 18]), st.sampled_from([(1, 2), (2, 3), (4, 5)]))
def test_every_form_is_right_at_every_batch(
    layer: Layer, data: st.DataObject, opset: int, lowered_at: tuple[int, int]
) -> None:
    """Of random structures, with stride, padding, dilation and groups: at 1, 2 and 5 samples, against float64."""
    forms = generate_forms(layer.network.structure, layer.geometry, layer.input_size)
    form = data.draw(st.sampled_from(forms))
    _, bias = example(layer)
    models = [lower(model_of(replace(layer, batch=batch), bias), {"layer": form.name}, opset) for batch in lowered_at]
    dynamic = with_dynamic_batch(*models)
    assert [str(value.shape[0]) for value in dynamic.graph.inputs if value.shape] == [BATCH_SYMBOL]
    for batch in BATCHES:
        at = replace(layer, batch=batch)
        x, _ = example(at)
        assert relative_l2(run(dynamic, {"x": x})[0], oracle(at, x, bias)) <= TOLERANCE, form.name


def test_inputs_and_outputs_have_a_symbol_and_other_sizes_stay() -> None:
    """What a placement folds into the batch has no name; the models that were given stay static."""
    body = "a = Reshape(x, fold) b = Relu(a) y = Reshape(b, back)"
    models = [
        text_of(batch, body, f"{batch},4,3,3", {"fold": [2 * batch, 2, 3, 3], "back": [batch, 4, 3, 3]})
        for batch in (2, 3)
    ]
    dynamic = with_dynamic_batch(*models)
    shapes = {value.name: str(value.shape) for node in dynamic.graph for value in node.outputs}
    assert shapes == {"a": "[None,2,3,3]", "b": "[None,2,3,3]", "y": "[N,4,3,3]"}
    assert str(models[0].graph.inputs[0].shape) == "[2,4,3,3]"
    assert_right_at_all(dynamic, dict(zip((2, 3), models, strict=True)))


@pytest.mark.parametrize("size", [(6, 9), (3, 3)])
def test_a_resize_to_whole_multiples_follows_the_batch(size: tuple[int, int]) -> None:
    """As F.interpolate to the size of another tensor is exported."""
    height, width = size
    body = 'y = Resize<mode = "linear", coordinate_transformation_mode = "pytorch_half_pixel">(x, , , sizes)'
    models = {n: text_of(n, body, f"{n},4,{height},{width}", {"sizes": [n, 4, height, width]}) for n in (2, 3)}
    assert_right_at_all(with_dynamic_batch(*models.values()), models)


@pytest.mark.parametrize("axes", ["{n},-1", "{n},4,-1", "4,{n},-1"])
def test_a_view_of_the_rest_follows_the_batch(axes: str) -> None:
    """As torch exports ``x.view(len(x), -1)``: with allowzero, by which a 0 is no size of the input's."""
    models = {}
    for n in (2, 3):
        target = [int(size) for size in axes.format(n=n).split(",")]
        whole = ",".join(str(36 * n // -np.prod(target) if size == -1 else size) for size in target)
        models[n] = text_of(n, "y = Reshape<allowzero = 1>(x, target)", whole, {"target": target})
    assert_right_at_all(with_dynamic_batch(*models.values()), models)


@pytest.mark.parametrize(
    ("targets", "output"),
    [
        ({2: [2, -1], 3: [3, -1]}, "36"),
        ({2: [2, 36], 3: [3, 36]}, "36"),
        ({2: [-1, 36], 3: [-1, 36]}, "36"),
        ({2: [0, 36], 3: [0, 36]}, "36"),
    ],
    ids=str,
)
def test_a_flattening_reshape_follows_the_batch(targets: dict[int, list[int]], output: str) -> None:
    models = {
        batch: text_of(batch, "y = Reshape(x, target)", f"{batch},{output}", {"target": target})
        for batch, target in targets.items()
    }
    dynamic = with_dynamic_batch(*models.values())
    assert_right_at_all(dynamic, models)
    assert run(dynamic, {"x": floats(7, 4, 3, 3)})[0].shape == (7, 36)


def test_a_target_that_two_reshapes_share_is_changed_for_the_one_alone() -> None:
    """At two samples a size that is always 2 looks like the batch."""
    body = "y = Reshape(x, one) z = Reshape(w, two)"

    def model(batch: int) -> ir.Model:
        constants = {"one": np.array([batch, 36]), "w": floats(8, 9)}
        text = body.replace("two", "one") if batch == 2 else body
        if batch != 2:
            constants["two"] = np.array([2, 36])
        return graph(f"float[{batch},4,3,3] x => float[{batch},36] y, float[2,36] z", text, constants)

    dynamic = with_dynamic_batch(model(2), model(3))
    y, z = run(dynamic, {"x": floats(5, 4, 3, 3)})
    assert (y.shape, z.shape) == ((5, 36), (2, 36))


@pytest.mark.parametrize(
    ("body", "output", "targets", "message"),
    [
        ("y = Expand(x, t)", "{n},4,3,3", "{n},4,3,3", "y: Expand has a constant that depends on the batch"),
        ("y = Resize(x, , , t)", "{n},4,5,5", "{n},4,5,5", "y: Resize has a constant that depends on the batch"),
    ],
)
def test_what_cannot_be_written_for_any_batch_is_refused_by_name(
    body: str, output: str, targets: str, message: str
) -> None:
    models = [
        text_of(n, f"[y] {body}", output.format(n=n), {"t": [int(size) for size in targets.format(n=n).split(",")]})
        for n in (2, 3)
    ]
    with pytest.raises(UserInputError, match=f"dynamic batch: {message}.*leave out --dynamic-batch"):
        with_dynamic_batch(*models)


def test_a_network_that_is_another_one_at_another_batch_is_refused() -> None:
    models = [text_of(2, "y = Relu(x)", "2,4,3,3"), text_of(3, "y = Tanh(x)", "3,4,3,3")]
    with pytest.raises(UserInputError, match="the network of 2 samples has other operators than that of 3"):
        with_dynamic_batch(*models)


def test_two_equal_batches_say_nothing() -> None:
    model = text_of(2, "y = Relu(x)", "2,4,3,3")
    with pytest.raises(ValueError, match="a batch of 2 twice"):
        with_dynamic_batch(model, model)


def test_what_counts_gets_a_graph_of_one_batch() -> None:
    """With every shape static again; one that is static is left as it is."""
    models = [text_of(n, "a = Reshape(x, t) y = Relu(a)", f"{n},36", {"t": [n, 36]}) for n in (2, 3)]
    found = at_batch(with_dynamic_batch(*models), 5)
    shapes = {value.name: str(value.shape) for node in found.graph for value in node.outputs}
    assert shapes == {"a": "[5,36]", "y": "[5,36]"}
    assert at_batch(models[0], 5) is models[0]
