"""An activation that only moves part from its Conv stands behind it afterwards."""

import onnx_ir as ir
import pytest

from kronexport.lower.raise_activations import RaiseActivations
from tests.lower.small_graphs import floats, graph, operators_after, shuffle

SIGNATURE = "float[1,3,3,3] x => float[1,6,3,3] y"
CONSTANTS = {"w": floats(6, 3, 1, 1)}


def before(model: ir.Model, operator: str) -> str | None:
    """The operator that makes what ``operator`` reads."""
    (node,) = (node for node in model.graph if node.op_type == operator)
    value = node.inputs[0]
    producer = None if value is None else value.producer()
    return None if producer is None else producer.op_type


@pytest.mark.parametrize(
    "activation", ["Relu(s)", "Clip(s, low, high)", "LeakyRelu<alpha = 0.1>(s)", "HardSwish(s)", "Sigmoid(s)"]
)
def test_an_activation_passes_a_shuffle(activation: str) -> None:
    """Its inputs besides, its attributes and its place among the outputs are kept."""
    constants = CONSTANTS | ({"low": floats(), "high": floats() + 2} if "low" in activation else {})
    model = graph(SIGNATURE, "c = Conv(x, w)" + shuffle("c", "s", (2, 3)) + f"y = {activation}", constants)
    left = operators_after(model, RaiseActivations())
    name = activation.partition("(")[0].partition("<")[0]
    assert left == {"Conv": 1, "Reshape": 2, "Transpose": 1, name: 1}
    assert before(model, name) == "Conv"


def test_an_activation_passes_images_in_the_batch() -> None:
    """Nothing is said about channels: only that each element is moved as it is."""
    body = """c = Conv(x, w) a_shape = Constant<value_ints = [2, 3, 9, 1]>() a = Reshape(c, a_shape)
        b = Transpose<perm = [1, 0, 3, 2]>(a) r = Relu(b) y = Abs(r)"""
    model = graph("float[1,3,3,3] x => float[3,2,1,9] y", body, CONSTANTS)
    assert operators_after(model, RaiseActivations()) == {"Conv": 1, "Reshape": 1, "Transpose": 1, "Relu": 1, "Abs": 1}
    assert before(model, "Relu") == "Conv"


@pytest.mark.parametrize(
    ("outputs", "between"),
    [
        ("y", shuffle("c", "t", (2, 3)) + "s = Add(t, bias)"),
        ("y, float[1,6,3,3] z", shuffle("c", "s", (2, 3)) + "z = Neg(s)"),
        ("y, float[1,6,3,3] z", shuffle("c", "s", (2, 3)) + "z = Neg(c)"),
        ("y, float[1,6,3,3] s", shuffle("c", "s", (2, 3))),
        ("y", "s = MaxPool<kernel_shape = [1, 1]>(c)"),
        ("y", "p = MaxPool<kernel_shape = [1, 1]>(c)" + shuffle("p", "s", (2, 3))),
    ],
    ids=["a bias", "another reader", "a reader of the Conv", "an output", "a pool", "no Conv"],
)
def test_an_activation_stays_behind_what_it_may_not_pass(outputs: str, between: str) -> None:
    constants = CONSTANTS | ({"bias": floats(1, 6, 1, 1)} if "bias" in between else {})
    model = graph(f"float[1,3,3,3] x => float[1,6,3,3] {outputs}", f"c = Conv(x, w){between} y = Relu(s)", constants)
    stood = before(model, "Relu")
    operators_after(model, RaiseActivations())
    assert before(model, "Relu") == stood != "Conv"


def test_an_activation_right_behind_its_conv_is_not_touched() -> None:
    model = graph(SIGNATURE, "c = Conv(x, w) y = Relu(c)", CONSTANTS)
    assert not RaiseActivations()(model).modified
