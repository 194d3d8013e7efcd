"""The step-down pass as a whole: opset and IR, what it refuses before touching the model, and a real exported CNN."""

import warnings

import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from kronexport.errors import UserInputError
from kronexport.lower.opset import IR_VERSIONS, StepDownOpset
from tests.lower.stepping import assert_steps_down, model, op_types


def test_ir_versions_are_those_of_the_onnx_releases() -> None:
    """The table of onnx itself: the first release with an opset fixes the IR version of our files."""
    released: dict[int, int] = {}
    for _, ir_version, opset, *_ in onnx.helper.VERSION_TABLE:
        released.setdefault(opset, ir_version)
    assert {opset: released[opset] for opset in IR_VERSIONS} == IR_VERSIONS


@pytest.mark.parametrize(("wanted", "ir_version"), [(18, 8), (19, 8), (21, 8)])
def test_never_raises_the_opset(wanted: int, ir_version: int) -> None:
    net = model("y = Relu(x)", opset=18)
    assert StepDownOpset(wanted)(net).modified
    assert (net.opset_imports[""], net.ir_version) == (18, ir_version)


def test_a_model_that_fits_is_not_modified() -> None:
    net = model("y = Relu(x)", opset=17)
    net.ir_version = 8
    assert not StepDownOpset(17)(net).modified


def test_the_other_name_of_the_standard_domain_is_understood() -> None:
    net = model("y = Relu(x)")
    net.opset_imports["ai.onnx"] = net.opset_imports.pop("")
    assert_steps_down(net, 13)


def test_metadata_stays_and_is_handed_to_the_parts() -> None:
    net = model("y = HardSwish(x)")
    net.graph.node(0).metadata_props["kronexport.site"] = "features.1"
    StepDownOpset(13)(net)
    assert [node.metadata_props["kronexport.site"] for node in net.graph] == ["features.1"] * 2


@pytest.mark.parametrize("opset", [12, 22])
def test_refuses_an_opset_that_it_does_not_write(opset: int) -> None:
    with pytest.raises(UserInputError, match=f"opset {opset} cannot be written; give one from 13 to 21"):
        StepDownOpset(opset)


def test_refuses_a_model_below_opset_13() -> None:
    with pytest.raises(UserInputError, match="opset 11, expected 13 or higher"):
        StepDownOpset(13)(model("y = Relu(x)", opset=11))


def test_refuses_other_domains() -> None:
    text = """
        <ir_version: 10, opset_import: ["": 18, "com.kronexport": 1]>
        g (float[1] x) => (float[1] y) {y = com.kronexport.K(x)}
    """
    with pytest.raises(UserInputError, match=r"holds com\.kronexport::K; .*lower or inline"):
        StepDownOpset(17)(ir.from_onnx_text(text))


def test_refuses_local_functions() -> None:
    text = """
        <ir_version: 10, opset_import: ["": 18, "local": 1]> g (float[1] x) => (float[1] y) {y = Relu(x)}
        <domain: "local", opset_import: ["": 18]> f (a) => (b) {b = Relu(a)}
    """
    with pytest.raises(UserInputError, match="function local::f"):
        StepDownOpset(17)(ir.from_onnx_text(text))


def test_refuses_subgraphs() -> None:
    branch = "t () => (float[1] z) {z = Constant<value_floats=[1.0]>()}"
    net = model(f"y = If(c) <then_branch = {branch}, else_branch = {branch}>", y="float[1]", constants="bool c = {1}")
    with pytest.raises(UserInputError, match=r"If node '.*': holds a subgraph.* from opset 18 to 17"):
        StepDownOpset(17)(net)


def test_refuses_element_types_that_the_older_operator_lacks() -> None:
    """Relu of integers came with opset 14: the change is types only, and these types do not go."""
    net = model("i = Cast<to=6>(x) r = Relu(i) y = Cast<to=1>(r)")
    with pytest.raises(
        UserInputError, match=r"Relu node '.*': input 'i' is tensor\(int32\); at opset 13 it may be .*tensor\(float\)"
    ):
        StepDownOpset(13)(net)


def test_refuses_unknown_operators_and_attributes() -> None:
    with pytest.raises(UserInputError, match="opset 18 has no such operator"):
        StepDownOpset(17)(model("y = Kronecker(x)"))
    with pytest.raises(UserInputError, match="does not know its attribute slope"):
        StepDownOpset(17)(model("y = Relu<slope=1>(x)"))


def test_a_refusal_leaves_the_model_as_it_was() -> None:
    net = model(
        "h = HardSwish(x) m = ReduceMean(h, axes) y = GridSample(m, grid)",
        constants="int64[1] axes = {0}, float[1,1,1,2] grid = {0, 0}",
    )
    before = ir.to_proto(net).SerializeToString()
    with pytest.raises(UserInputError, match="GridSample"):
        StepDownOpset(13)(net)
    assert ir.to_proto(net).SerializeToString() == before


class Net(nn.Module):
    """What torch's exporter writes with opset 18 operators: one of each kind that CNNs use."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Hardswish())
        self.down = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16))
        self.body = nn.Sequential(nn.Mish(), nn.PReLU(16), nn.LeakyReLU(), nn.GroupNorm(4, 16))
        self.norm = nn.LayerNorm(16)
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1), nn.Hardsigmoid())
        self.up = nn.Sequential(nn.Conv2d(16, 64, 1), nn.PixelShuffle(2))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        shortcut = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))  # ResNet's option A
        x = self.body(nn.functional.relu(self.down(x) + shortcut))
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = x * self.squeeze(x)
        large = self.up(x) + nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        first, second = torch.chunk(nn.functional.silu(x), 2, dim=1)
        pooled = nn.AdaptiveAvgPool2d(2)(x).flatten(1) + nn.functional.max_pool2d(x, 2).flatten(1)
        return self.head(x.mean((2, 3))), large, first * second.amax((2, 3), keepdim=True), pooled


@pytest.fixture(scope="module", params=["static", "dynamic batch"])
def exported(request: pytest.FixtureRequest) -> ir.Model:
    torch.manual_seed(0)
    dynamic = {"static": None, "dynamic batch": {"x": {0: "batch"}}}[request.param]
    example = (torch.randn(2, 3, 8, 8),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own internals
        program = torch.onnx.export(
            Net().eval(), example, dynamo=True, opset_version=18, dynamic_shapes=dynamic, verbose=False
        )
    assert program is not None
    return program.model


@pytest.mark.parametrize("opset", [17, 16, 15, 14, 13])
def test_an_exported_cnn_steps_down(exported: ir.Model, opset: int) -> None:
    net = exported.clone()
    changing = {
        "HardSwish",
        "Mish",
        "LayerNormalization",
        "Resize",
        "Split",
        "Pad",
        "ReduceMean",
        "ReduceMax",
        "DepthToSpace",
    }
    assert changing <= set(op_types(net))
    assert_steps_down(net, opset)
