"""MACs of a graph against counts by hand."""

from typing import Any

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from torch import Tensor, nn

from kronexport.errors import UserInputError
from kronexport.export.onnx_export import export_onnx
from kronexport.lower.macs import count_macs
from kronexport.records import InputSpec
from kronexport.survey.trace import trace


def model(op: str, shapes: list[list[int | str]], output: list[int | str], **attributes: Any) -> ir.Model:
    """One node of ``op`` whose inputs have ``shapes``."""
    values = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape) for i, shape in enumerate(shapes)]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, output)
    node = helper.make_node(op, [value.name for value in values], ["y"], name="the_node", **attributes)
    graph = helper.make_graph([node], "one", values, [result])
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))


def test_conv_counts_every_output_by_every_weight_of_its_filter() -> None:
    """2 images, 5 filters of 3x3 over 4 channels, 6x7 outputs."""
    macs = count_macs(model("Conv", [[2, 4, 8, 9], [5, 4, 3, 3]], [2, 5, 6, 7]))
    assert macs == 2 * 5 * 6 * 7 * (4 * 3 * 3)


def test_a_grouped_conv_counts_only_the_channels_of_a_group() -> None:
    macs = count_macs(model("Conv", [[1, 6, 8, 8], [9, 2, 3, 3]], [1, 9, 6, 6], group=3))
    assert macs == 9 * 6 * 6 * (2 * 3 * 3)


def test_conv_transpose_counts_every_input_by_every_weight_of_its_channel() -> None:
    """A transposed conv scatters: 4 channels of 5x5 inputs, each into 3 filters of 2x2, stride 2."""
    macs = count_macs(model("ConvTranspose", [[1, 4, 5, 5], [4, 3, 2, 2]], [1, 3, 10, 10]))
    assert macs == 4 * 5 * 5 * (3 * 2 * 2)


@pytest.mark.parametrize(
    ("left", "right", "transposed"),
    [([3, 10], [10, 7], (0, 0)), ([3, 10], [7, 10], (0, 1)), ([10, 3], [10, 7], (1, 0)), ([10, 3], [7, 10], (1, 1))],
)
def test_gemm_counts_the_contracted_axis_wherever_it_lies(
    left: list[int | str], right: list[int | str], transposed: tuple[int, int]
) -> None:
    macs = count_macs(model("Gemm", [left, right], [3, 7], transA=transposed[0], transB=transposed[1]))
    assert macs == 3 * 10 * 7


def test_matmul_counts_its_batch_too() -> None:
    assert count_macs(model("MatMul", [[2, 3, 10], [10, 7]], [2, 3, 7])) == 2 * 3 * 10 * 7


@pytest.mark.parametrize(
    ("equation", "left", "right", "output", "macs"),
    [
        ("bci, bcj -> bij", [2, 3, 10], [2, 3, 7], [2, 10, 7], 2 * 3 * 10 * 7),
        ("...ij,jk->...ik", [2, 3, 5, 10], [10, 7], [2, 3, 5, 7], 2 * 3 * 5 * 10 * 7),
        ("b...c,...cd", [2, 1, 4], [6, 4, 5], [2, 6, 5], 2 * 6 * 4 * 5),
        ("ij,jk->i", [4, 5], [5, 6], [4], 4 * 5),
        ("bchw,bc->bchw", [2, 3, 4, 5], [2, 3], [2, 3, 4, 5], 0),
    ],
)
def test_einsum_counts_what_torch_multiplies_and_sums(
    equation: str, left: list[int | str], right: list[int | str], output: list[int | str], macs: int
) -> None:
    assert count_macs(model("Einsum", [left, right], output, equation=equation)) == macs


def test_einsum_of_one_operand_multiplies_nothing() -> None:
    assert count_macs(model("Einsum", [[2, 3]], [3, 2], equation="ij->ji")) == 0


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize(("direction", "directions"), [("forward", 1), ("bidirectional", 2)])
def test_a_recurrent_layer_counts_both_of_its_weights_at_each_step(
    op: str, gates: int, direction: str, directions: int
) -> None:
    """5 steps of 2 sequences, 3 channels, a state of 7; W and R hold the directions and gates."""
    shapes: list[list[int | str]] = [[5, 2, 3], [directions, gates * 7, 3], [directions, gates * 7, 7]]
    macs = count_macs(model(op, shapes, [5, directions, 2, 7], hidden_size=7, direction=direction))
    assert macs == 5 * 2 * directions * gates * 7 * (3 + 7)


class Reading(nn.Module):
    """A conv whose rows a recurrent layer reads."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.conv, self.layer = nn.Conv2d(3, 4, 3, padding=1), layer

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(self.conv(x).mean(1))[0]
        return output


@pytest.mark.filterwarnings("ignore")  # of the exporter about itself
@pytest.mark.parametrize(
    "layer",
    [
        nn.GRU(16, 8, batch_first=True),
        nn.LSTM(16, 8, batch_first=True, bias=False),
        nn.LSTM(16, 8, num_layers=2, bidirectional=True),
    ],
    ids=str,
)
def test_a_recurrent_layer_counts_what_the_survey_counts(layer: nn.Module) -> None:
    module, spec = Reading(layer).eval(), InputSpec("input", (2, 3, 12, 16))
    assert count_macs(export_onnx(module, spec)) == trace(module, spec).macs


def test_other_nodes_count_nothing() -> None:
    assert count_macs(model("Relu", [[2, 3, 10]], [2, 3, 10])) == 0


def test_a_symbolic_shape_is_refused_by_the_name_of_its_node() -> None:
    symbolic = model("Conv", [["batch", 4, 8, 8], [5, 4, 3, 3]], ["batch", 5, 6, 6])
    with pytest.raises(UserInputError, match=r"the_node: shape .*batch.* is not static"):
        count_macs(symbolic)
