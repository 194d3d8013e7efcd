"""KroneckerConv2d and KroneckerLinear: each computes what its factors say, trains, and exports as one operator."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from kronexport.errors import UserInputError
from kronexport.export.module import KroneckerConv2d, KroneckerLinear
from kronexport.export.onnx_export import export_onnx, save_model
from kronexport.export.operator import attach_functions, is_kronecker, read_node
from kronexport.factorize.decompose import decompose
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.records import ConvGeometry, InputSpec, Structure
from kronexport.verify.outputs import run_onnx
from tests.strategies import Layer, layers

FULL = gkpd_structure((4, 2, 3, 1), (2, 3, 1, 3), 18)


@settings(max_examples=40, deadline=None)
@given(layers())
def test_it_is_the_convolution_by_to_dense(layer: Layer) -> None:
    """With unequal padding, stride, dilation and groups: equal to a conv of the padded input by the dense weight."""
    module = KroneckerConv2d(layer.network, layer.geometry)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(layer.input_shape).astype(np.float32))
    top, left, bottom, right = layer.geometry.pads
    padded = nn.functional.pad(x, (left, right, top, bottom))
    weight = torch.from_numpy(layer.network.to_dense())
    geometry = layer.geometry
    expected = nn.functional.conv2d(padded, weight, None, geometry.stride, 0, geometry.dilation, geometry.group)
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))


@pytest.mark.filterwarnings("ignore:Using padding:UserWarning")  # torch notes that it copies the input
def test_at_full_rank_it_replaces_a_conv() -> None:
    """from_conv keeps bias, stride, dilation and the unequal padding of padding="same" with an even kernel."""
    torch.manual_seed(0)
    for conv in (
        nn.Conv2d(6, 8, 3, stride=2, padding=1, dilation=2),
        nn.Conv2d(6, 8, (3, 3), padding="same", bias=False),
        nn.Conv2d(6, 8, (2, 4), padding="same"),
        nn.Conv2d(12, 8, 3, groups=2),
    ):
        kernel = conv.kernel_size
        structure = gkpd_structure((4, 2, kernel[0], 1), (2, 3, 1, kernel[1]), min(8 * kernel[0], 6 * kernel[1]))
        x = torch.randn(2, conv.in_channels, 11, 9)
        torch.testing.assert_close(KroneckerConv2d.from_conv(conv, structure)(x), conv(x), rtol=1e-4, atol=1e-5)


def test_a_conv_that_does_not_pad_with_zeros_is_refused() -> None:
    """It would compute something else."""
    with pytest.raises(UserInputError, match="expected 'zeros'"):
        KroneckerConv2d.from_conv(nn.Conv2d(6, 8, 3, padding_mode="reflect", padding=1), FULL)


def test_a_first_factor_that_does_not_say_the_group_is_refused() -> None:
    """With its filters and the groups that they must be a multiple of."""
    structure = gkpd_structure((2, 3, 3, 1), (4, 1, 1, 3), 2)
    with pytest.raises(UserInputError, match=r"the first factor has 2 filters, expected a multiple of 4"):
        KroneckerConv2d.from_conv(nn.Conv2d(12, 8, 3, groups=4), structure)


def test_it_keeps_what_a_conv_says_of_itself() -> None:
    """A forward that reads a conv's attributes, in its dtype, frozen or not, goes on working."""
    conv = nn.Conv2d(12, 8, 3, stride=2, padding=1, groups=2, dtype=torch.float64).eval()
    conv.requires_grad_(requires_grad=False)
    module = KroneckerConv2d.from_conv(conv, FULL)
    for name in ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups", "training"):
        assert getattr(module, name) == getattr(conv, name)
    torch.testing.assert_close(module.weight, conv.weight)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float64}
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_every_factor_and_the_bias_get_gradients() -> None:
    """It can be trained as it is."""
    module = KroneckerConv2d.from_conv(nn.Conv2d(6, 8, 3, padding=1), FULL)
    module(torch.randn(1, 6, 5, 5)).square().sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []


ROWS = ((3, 12), (2, 5, 12), (2, 4, 3, 12))
LOW_RANK = gkpd_structure((10, 1, 1, 1), (1, 12, 1, 1), 10)


def linear(structure: Structure = LOW_RANK) -> tuple[nn.Linear, KroneckerLinear]:
    """A linear layer and its factorized form."""
    torch.manual_seed(0)
    layer = nn.Linear(12, 10)
    network = decompose(layer.weight.detach()[:, :, None, None].numpy(), structure)
    return layer, KroneckerLinear(network, layer.bias, "head")


@pytest.mark.parametrize("shape", ROWS)
def test_at_full_rank_it_replaces_a_linear_layer(shape: tuple[int, ...]) -> None:
    """For any leading shape, with the attributes that a forward may read; it trains."""
    layer, module = linear()
    x = torch.randn(shape)
    torch.testing.assert_close(module(x), layer(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module.weight, layer.weight, rtol=1e-4, atol=1e-5)
    assert (module.in_features, module.out_features) == (layer.in_features, layer.out_features)
    module(x).square().sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("structure", [LOW_RANK, gkpd_structure((5, 3, 1, 1), (2, 4, 1, 1), 2)])
@pytest.mark.parametrize("shape", ROWS)
def test_a_linear_layer_exports_as_one_operator(shape: tuple[int, ...], structure: Structure) -> None:
    """Which computes what the module does; a classifier needs no Transpose for its rows."""
    _, module = linear(structure)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    exported = export_onnx(module, InputSpec("x", shape))
    (node,) = [node for node in exported.graph if is_kronecker(node)]
    meaning = read_node(node)
    assert (meaning.site, meaning.structure, meaning.geometry) == ("head", structure, ConvGeometry((1, 1)))
    if len(shape) == 2:
        assert [other.op_type for other in exported.graph if other.op_type == "Transpose"] == []
    attach_functions(exported)
    session = onnxruntime.InferenceSession(ir.to_proto(exported).SerializeToString())
    expected = module(x).detach().numpy()
    np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], expected, rtol=1e-4, atol=1e-5)


def test_a_structure_that_does_not_fit_is_refused() -> None:
    """With the sizes that came and that were expected."""
    with pytest.raises(UserInputError, match=r"makes a weight \(8, 6, 3, 3\), the given one is \(8, 5, 3, 3\)"):
        KroneckerConv2d.from_conv(nn.Conv2d(5, 8, 3), FULL)


def test_the_export_holds_one_operator_node_that_says_everything() -> None:
    """Structure, ranks, geometry and site can be read back from the node."""
    conv = nn.Conv2d(12, 8, 3, stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2)
    module = KroneckerConv2d.from_conv(conv, FULL, site="block.conv")
    model = export_onnx(nn.Sequential(module, nn.ReLU()), InputSpec("image", (1, 12, 12, 10)))
    (node,) = [node for node in model.graph if is_kronecker(node)]
    meaning = read_node(node)
    assert (meaning.site, meaning.structure, meaning.geometry) == ("block.conv", FULL, module.geometry)
    assert model.graph.inputs[0].name == "image"
    assert node.inputs[1] is not None
    np.testing.assert_array_equal(node.inputs[1].const_value.numpy(), conv.bias.detach().numpy())  # type: ignore[union-attr]


def test_a_layer_without_bias_exports_zeros() -> None:
    """The operator always has B; the module counts no parameter for it."""
    module = KroneckerConv2d.from_conv(nn.Conv2d(6, 8, 3, bias=False), FULL)
    assert sum(p.numel() for p in module.parameters()) == FULL.params
    model = export_onnx(module, InputSpec("x", (1, 6, 5, 5)))
    (node,) = [node for node in model.graph if is_kronecker(node)]
    assert node.inputs[1] is not None
    assert not node.inputs[1].const_value.numpy().any()  # type: ignore[union-attr]


class Heads(nn.Module):
    """Gives the output of its first layer, and of its last, or its input."""

    def __init__(self, first: nn.Module, *, gives_input: bool = False) -> None:
        super().__init__()
        self.first, self.last, self.gives_input = first, nn.Conv2d(8, 8, 1), gives_input

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        early = self.first(x)
        return (x if self.gives_input else early), self.last(early.relu())


@pytest.mark.parametrize("gives_input", [False, True])
def test_no_two_values_have_one_name_where_outputs_are_named_after_another_export(
    *, gives_input: bool, tmp_path: Path
) -> None:
    """Torch counts layers by their operator, and a factorized one is none of conv2d's."""
    conv, spec = nn.Conv2d(8, 8, 3, padding=1), InputSpec("x", (1, 8, 5, 5))
    structure = gkpd_structure((8, 1, 1, 1), (1, 8, 3, 3), 2)
    names = [str(value.name) for value in export_onnx(Heads(conv, gives_input=gives_input), spec).graph.outputs]
    exported = export_onnx(Heads(KroneckerConv2d.from_conv(conv, structure), gives_input=gives_input), spec, names)
    assert [value.name for value in exported.graph.outputs] == names
    attach_functions(exported)
    save_model(exported, tmp_path / "model.onnx")
    assert list(run_onnx(tmp_path / "model.onnx", np.ones(spec.shape, np.float32))) == names


def test_a_model_that_cannot_be_traced_is_a_user_error() -> None:
    """The error names the model and what torch said."""

    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UserInputError, match="cannot trace Branching"):
        export_onnx(Branching(), InputSpec("x", (1, 3, 4, 4)))


@pytest.mark.filterwarnings("ignore:Using padding:UserWarning")  # torch notes that it copies the input
@settings(max_examples=40, deadline=None)
@given(layers())
def test_the_dense_layer_computes_the_same(layer: Layer) -> None:
    """Wherever nn.Conv2d has such pads; else the message says which pads these are."""
    module = KroneckerConv2d(layer.network, layer.geometry, torch.ones(layer.network.structure.weight_shape[0]))
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(layer.input_shape).astype(np.float32))
    top, left, bottom, right = layer.geometry.pads
    try:
        dense = module.dense_layer()
    except UserInputError as error:
        assert (top, left) != (bottom, right)
        assert f"pads {layer.geometry.pads} (top, left, bottom, right)" in str(error)  # noqa: PT017  one of two ways
    else:
        expected = module(x)
        torch.testing.assert_close(dense(x), expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))


@pytest.mark.filterwarnings("ignore:Using padding:UserWarning")  # torch notes that it copies the input
def test_the_dense_layer_of_a_replaced_conv_is_like_the_conv() -> None:
    """Padding "same" of an even kernel, type, mode and the seed of others, which stays untouched."""
    conv = nn.Conv2d(6, 8, (2, 4), padding="same", bias=False).double().eval()
    module = KroneckerConv2d.from_conv(conv, gkpd_structure((4, 2, 2, 1), (2, 3, 1, 4), 16))
    torch.manual_seed(1)
    dense = module.dense_layer()
    seeded = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), seeded)
    x = torch.randn(2, 6, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(dense(x), conv(x))
    assert dense.bias is None
    assert not dense.training
    linear = nn.Linear(6, 4)
    network = decompose(linear.weight.detach().numpy()[:, :, None, None], gkpd_structure((4, 1, 1, 1), (1, 6, 1, 1), 4))
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(KroneckerLinear.replacing(linear, network).dense_layer()(x), linear(x))
