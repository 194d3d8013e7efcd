from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.ao.nn import quantized
from torch.nn import functional
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.parametrize import register_parametrization

from kronexport.errors import UserInputError
from kronexport.records import ConvGeometry, InputSpec, Survey
from kronexport.survey.sites import columns, layer_weight, onnx_pads, survey

SPEC = InputSpec("input", (1, 4, 8, 8))


class Net(nn.Module):
    """``plain``, an ordinary conv, and one part called after it by ``forward``."""

    # Any: nn.Module types its parts as Tensor | Module, which cannot be called.
    part: Any
    a: Any
    b: Any
    early: Any
    late: Any
    features: Any
    again: Any
    filter: Any

    def __init__(self, run: Callable[["Net", Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.plain = nn.Conv2d(4, 4, 3, padding=1)
        for name, part in parts.items():
            self.add_module(name, part)
        self.run = run

    def forward(self, images: Tensor) -> Tensor:
        return self.run(self, self.plain(images))


def with_part(part: nn.Module) -> Net:
    return Net(lambda net, x: net.part(x), part=part)


def look(module: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Survey:
    return survey(module.eval(), SPEC, include, exclude)


def reasons(module: nn.Module) -> dict[str, str]:
    """Why each conv but ``plain``, which must be the only site, is skipped."""
    found = look(module)
    assert [site.name for site in found.sites] == ["plain"]
    return {skipped.site: skipped.reason for skipped in found.skipped}


# --- what a site is -----------------------------------------------------------------------------------------------


def test_site_has_shapes_sizes_params_macs_and_share() -> None:
    module = nn.Sequential(
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), bias=False),
        nn.BatchNorm2d(6),
        nn.Flatten(),
        nn.Linear(6 * 4 * 6, 10),
    )
    found = look(module)
    (site,) = found.sites
    conv_macs, linear_macs = 4 * 6 * 6 * 4 * 6, 144 * 10
    assert site.geometry == ConvGeometry((3, 2), (2, 1), (1, 0, 1, 0), (1, 2))
    assert (site.name, site.in_channels, site.out_channels, site.has_bias) == ("0", 4, 6, False)
    assert (site.input_size, site.output_size) == ((8, 8), (4, 6))
    assert (site.params, site.macs) == (144, conv_macs)
    assert site.share == pytest.approx(conv_macs / (conv_macs + linear_macs))
    assert found.macs == conv_macs + linear_macs
    assert found.params == 144 + 12 + 1450
    assert found.skipped == ()


def test_a_grouped_conv_is_a_site() -> None:
    """Its weight holds the channels of one group, which is what each output costs."""
    (site,) = look(nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, bias=False))).sites
    assert site.geometry == ConvGeometry((3, 3), group=2)
    assert (site.in_channels, site.weight_shape) == (4, (6, 2, 3, 3))
    assert (site.params, site.macs) == (6 * 2 * 9, 6 * 6 * 6 * 2 * 9)


def test_bias_counts_as_params() -> None:
    (site,) = look(nn.Sequential(nn.Conv2d(4, 2, 1))).sites
    assert (site.has_bias, site.params) == (True, 10)


def test_batch_counts_in_macs() -> None:
    module = nn.Sequential(nn.Conv2d(4, 2, 1)).eval()
    assert survey(module, InputSpec("input", (3, 4, 8, 8))).macs == 3 * look(module).macs


def test_sites_are_in_order_of_execution() -> None:
    net = Net(lambda net, x: net.early(x) + net.late(x), late=nn.Conv2d(4, 4, 1), early=nn.Conv2d(4, 4, 1))
    assert [site.name for site in look(net).sites] == ["plain", "early", "late"]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")  # the case under test
@settings(max_examples=100, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.one_of(st.sampled_from(["same", "valid"]), st.tuples(st.integers(0, 3), st.integers(0, 3))),
)
def test_onnx_pads_are_what_torch_pads(
    kernel: tuple[int, int], dilation: tuple[int, int], padding: str | tuple[int, int]
) -> None:
    """Explicit padding followed by an unpadded conv gives the same output, unequal ``same`` padding included."""
    conv = nn.Conv2d(1, 1, kernel, padding=padding, dilation=dilation, dtype=torch.float64)
    images = torch.randn(1, 1, 11, 12, dtype=torch.float64)
    top, left, bottom, right = onnx_pads(conv)
    padded = functional.pad(images, (left, right, top, bottom))
    expected = functional.conv2d(padded, conv.weight, conv.bias, dilation=dilation)
    np.testing.assert_allclose(conv(images).detach().numpy(), expected.detach().numpy(), rtol=1e-10, atol=1e-10)


def test_same_padding_of_an_even_kernel_is_larger_at_the_end() -> None:
    assert onnx_pads(nn.Conv2d(1, 1, (4, 3), padding="same")) == (1, 1, 2, 1)


# --- what is skipped ----------------------------------------------------------------------------------------------


class Doubling(nn.Conv2d):
    """A conv with a forward of its own."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * 2


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


def hooked() -> nn.Conv2d:
    conv = nn.Conv2d(4, 4, 1)
    conv.register_forward_hook(lambda _module, _args, output: output * 2)
    return conv


def overridden() -> nn.Conv2d:
    conv = nn.Conv2d(4, 4, 1)
    vars(conv)["forward"] = lambda images: images  # what some libraries do to wrap a layer
    return conv


def pruned() -> nn.Conv2d:
    conv = nn.Conv2d(4, 4, 1)
    prune.l1_unstructured(conv, "weight", amount=0.5)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return conv


def parametrized() -> nn.Module:
    conv = nn.Conv2d(4, 4, 1)
    register_parametrization(conv, "weight", Doubled())
    return conv


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (nn.Conv2d(4, 8, 3, groups=4), "depthwise"),
        (nn.ConvTranspose2d(4, 4, 2), "transposed"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "'reflect'"),
        (Doubling(4, 4, 1), "is a Doubling, which has a forward of its own"),
        (parametrized(), "parametrization"),
        (parametrizations.weight_norm(nn.Conv2d(4, 4, 1)), "parametrization"),
        (pruned(), "computed by a hook"),
        (hooked(), "hooks or a forward of its own"),
        (overridden(), "hooks or a forward of its own"),
    ],
)
def test_conv_of_another_kind_is_skipped_with_its_reason(part: nn.Module, says: str) -> None:
    assert says in reasons(with_part(part))["part"]


def test_subclass_that_computes_as_conv2d_is_a_site() -> None:
    class Pointwise(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(4, 4, 1)

    assert [site.name for site in look(with_part(Pointwise())).sites] == ["plain", "part"]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_quantized_linear_layer_is_skipped() -> None:
    part = quantized.dynamic.Linear(8, 4)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    ((name, reason),) = reasons(Net(lambda net, x: net.part(x), part=part)).items()
    assert name == "part"
    assert "is quantized" in reason


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")  # deprecated by torch, still in use
def test_quantized_conv_is_skipped() -> None:
    def run(net: Net, x: Tensor) -> Tensor:
        output: Tensor = net.part(torch.quantize_per_tensor(x, 0.1, 0, torch.quint8))
        return output.dequantize()

    part = quantized.Conv2d(4, 4, 1)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert "is quantized" in reasons(Net(run, part=part))["part"]


def test_one_input_channel_is_not_depthwise() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3)).eval()
    assert len(survey(module, InputSpec("input", (1, 1, 8, 8))).sites) == 1


@pytest.mark.parametrize(
    ("part", "run", "says"),
    [
        (nn.Conv1d(4, 4, 3), lambda net, x: net.part(x.flatten(2)), "1-D"),
        (nn.Conv3d(4, 4, 1), lambda net, x: net.part(x[..., None]), "3-D"),
        (nn.Conv2d(4, 4, 1), lambda net, x: net.part(net.part(x)), "called 2 times"),
        (nn.Conv2d(4, 4, 1), lambda _, x: x, "never called"),
        (nn.Conv2d(4, 4, 1), lambda net, x: net.part(x[0]), "without a batch axis"),
        (nn.Conv2d(4, 4, 1), lambda net, x: net.part.forward(x), "outside its own call"),
        (nn.Conv2d(4, 4, 1), lambda net, x: functional.conv2d(x, net.part.weight), "outside its own call"),
        (nn.Conv2d(4, 4, 1), lambda net, x: net.part(x) * net.part.weight.mean(), "outside its own call"),
        (
            nn.Conv2d(4, 4, 1, dtype=torch.complex64),
            lambda net, x: net.part(x.to(torch.complex64)).real,
            "complex",
        ),
    ],
)
def test_conv_used_in_another_way_is_skipped_with_its_reason(
    part: nn.Module, run: Callable[[Net, Tensor], Tensor], says: str
) -> None:
    found = reasons(Net(run, part=part))
    assert list(found) == ["part"]
    assert says in found["part"]


def test_weight_shared_by_two_convs_skips_both() -> None:
    net = Net(lambda net, x: net.a(x) + net.b(x), a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 1))
    net.b.weight = net.a.weight
    assert reasons(net) == {"a": "shares its weight with b", "b": "shares its weight with a"}


def test_weight_that_the_model_itself_holds_is_skipped() -> None:
    net = Net(lambda net, x: net.a(x), a=nn.Conv2d(4, 4, 1))
    net.register_parameter("w", net.a.weight)
    assert reasons(net) == {"a": "shares its weight with (model)"}


def test_weight_shared_with_a_linear_is_skipped() -> None:
    net = Net(lambda net, x: net.a(x), a=nn.Conv2d(4, 4, 1), b=nn.Linear(4, 4))
    net.b.weight = net.a.weight
    assert reasons(net) == {"a": "shares its weight with b"}


def test_conv_held_by_two_modules_is_skipped() -> None:
    """Replacing it at one place would leave the other as it was."""
    conv = nn.Conv2d(4, 4, 1)
    net = Net(lambda net, x: net.features(x), part=conv, features=nn.Sequential(conv, nn.ReLU()))
    assert reasons(net) == {"part": "is held in several places: part, features.0"}


def test_conv_under_two_names_of_one_module_is_skipped() -> None:
    """As one that was renamed and kept for old checkpoints: forward may use either name."""
    conv = nn.Conv2d(4, 4, 1)
    net = Net(lambda net, x: net.again(x), part=conv, again=conv)
    assert reasons(net) == {"part": "is held in several places: part, again"}


def test_conv_of_a_module_with_two_names_is_a_site() -> None:
    """It has one holder, so replacing it there serves both names."""
    body = nn.Sequential(nn.Conv2d(4, 4, 1))
    net = Net(lambda net, x: net.again(x), body=body, again=body)
    assert [site.name for site in look(net).sites] == ["plain", "body.0"]


def test_functional_conv_is_named_by_its_module() -> None:
    class Filter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.ones(4, 4, 1, 1))

        def forward(self, images: Tensor) -> Tensor:
            return functional.conv2d(functional.conv2d(images, self.kernel), self.kernel)

    net = Net(lambda net, x: net.filter(x) + functional.conv_transpose2d(x, torch.ones(4, 4, 1, 1)), filter=Filter())
    found = reasons(net)
    assert list(found) == ["filter", "(model)"]
    assert found["filter"].startswith("2 convolutions in its forward")
    assert found["(model)"].startswith("1 convolution in its forward")


def test_conv_that_is_not_registered_is_reported() -> None:
    """Python lists hide modules from torch: their weights are in no state dict."""
    hidden = [nn.Conv2d(4, 4, 1)]
    assert reasons(Net(lambda _, x: hidden[0](x)))["(model)"].startswith("1 convolution")


def test_bare_conv_as_the_model_says_what_to_do() -> None:
    with pytest.raises(UserInputError, match="is the whole model; put it into an"):
        look(nn.Conv2d(4, 4, 1))


# --- linear layers, which are 1x1 convs where --include names them ------------------------------------------------


@pytest.mark.parametrize(
    ("run", "pixels"),
    [
        (lambda net, x: net.part(x.mean((2, 3))), 1),
        (lambda net, x: net.part(x.flatten(2).transpose(1, 2)), 64),
        (lambda net, x: net.part(x.permute(0, 2, 3, 1)), 64),
    ],
)
def test_an_included_linear_layer_is_a_1x1_conv(run: Callable[[Net, Tensor], Tensor], pixels: int) -> None:
    """Of one pixel for a classifier, else of as many as its input has positions."""
    _, site = look(Net(run, part=nn.Linear(4, 6)), include=["*"]).sites
    assert (site.name, site.weight_shape, site.geometry) == ("part", (6, 4, 1, 1), ConvGeometry((1, 1)))
    assert (site.batch, site.input_size, site.output_size) == (1, (pixels, 1), (pixels, 1))
    assert (site.params, site.macs, site.has_bias) == (30, pixels * 24, True)


def test_a_linear_layer_that_no_include_names_is_left_alone() -> None:
    """It is not among the skipped, since nobody asked for it; it may be excluded all the same."""
    net = Net(lambda net, x: net.part(x.mean((2, 3))), part=nn.Linear(4, 6))
    for found in (look(net), look(net, include=["plain"]), look(net, exclude=["part"])):
        assert [site.name for site in found.sites] == ["plain"]
        assert found.skipped == ()
    (skipped,) = look(net, include=["*"], exclude=["part"]).skipped
    assert (skipped.site, skipped.reason) == ("part", "excluded by --exclude part")


class DoublingLinear(nn.Linear):
    """A linear layer with a forward of its own."""

    def forward(self, rows: Tensor) -> Tensor:
        return super().forward(rows) * 2


def tied() -> Net:
    net = Net(lambda net, x: net.part(x.mean((2, 3))), part=nn.Linear(4, 6), a=nn.Embedding(6, 4))
    net.a.weight = net.part.weight
    return net


@pytest.mark.parametrize(
    ("net", "says"),
    [
        (tied(), "shares its weight with a"),
        (Net(lambda net, x: net.part(x.mean((2, 3))), part=DoublingLinear(4, 4)), "has a forward of its own"),
        (Net(lambda net, x: net.part(net.part(x.mean((2, 3)))), part=nn.Linear(4, 4)), "called 2 times"),
        (Net(lambda net, x: net.part(x.mean((0, 2, 3))), part=nn.Linear(4, 4)), "without a batch axis"),
        (Net(lambda net, x: x.mean((2, 3)) @ net.part.weight, part=nn.Linear(4, 4)), "outside its own call"),
        (Net(lambda net, x: functional.linear(x.mean((2, 3)), net.part.weight), part=nn.Linear(4, 4)), "outside"),
        (Net(lambda _, x: x, part=nn.Linear(4, 4)), "never called"),
    ],
)
def test_an_included_linear_layer_has_the_obstacles_of_a_conv(net: Net, says: str) -> None:
    found = look(net, include=["*"])
    assert [site.name for site in found.sites] == ["plain"]
    (skipped,) = found.skipped
    assert skipped.site == "part"
    assert says in skipped.reason


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=0, max_size=3))
def test_columns_turn_a_linear_layer_into_a_conv(middle: list[int]) -> None:
    """The 1x1 conv of the columns of the input gives the columns of the output."""
    layer = nn.Linear(5, 7, dtype=torch.float64)
    x = torch.randn(2, *middle, 5, dtype=torch.float64)
    expected = functional.conv2d(columns(x), layer_weight(layer), layer.bias)
    np.testing.assert_allclose(columns(layer(x)).detach().numpy(), expected.detach().numpy(), rtol=1e-12, atol=1e-12)


# --- what the user selects ----------------------------------------------------------------------------------------


def chain() -> nn.Sequential:
    blocks = [nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()) for _ in range(3)]
    return nn.Sequential(*blocks, nn.Conv2d(4, 4, 1, groups=4))


def test_include_keeps_only_what_matches() -> None:
    found = look(chain(), include=["0.*", "2.0"])
    assert [site.name for site in found.sites] == ["0.0", "2.0"]
    assert [(skipped.site, skipped.reason) for skipped in found.skipped] == [
        ("1.0", "not selected by --include 0.* 2.0"),
        ("3", "is depthwise"),
    ]


def test_exclude_wins_over_include() -> None:
    found = look(chain(), include=["*"], exclude=["1.*"])
    assert [site.name for site in found.sites] == ["0.0", "2.0"]
    assert found.skipped[0].reason == "excluded by --exclude 1.*"


def test_pattern_of_a_skipped_conv_matches_something() -> None:
    assert len(look(chain(), exclude=["3"]).sites) == 3


@pytest.mark.parametrize(
    ("pattern", "says"),
    [("0.1", "did you mean '0.0'"), ("1", "did you mean '1.*'?"), ("conv", "there are 0.0, 1.0, 2.0, 3")],
)
@pytest.mark.parametrize("option", ["include", "exclude"])
def test_pattern_that_matches_nothing_suggests(option: str, pattern: str, says: str) -> None:
    with pytest.raises(UserInputError) as caught:
        look(chain(), **{option: [pattern]})
    assert f"{pattern!r}: matches no convolution" in str(caught.value)
    assert says in str(caught.value)


def test_no_conv_at_all() -> None:
    with pytest.raises(UserInputError, match="the model has no convolution to factorize"):
        look(nn.Sequential(nn.Flatten(), nn.Linear(256, 2)))


def test_no_conv_left_sums_up_the_reasons() -> None:
    module = nn.Sequential(*(nn.Conv2d(4, 4, 1, groups=4) for _ in range(3)), nn.ConvTranspose2d(4, 2, 1))
    with pytest.raises(UserInputError) as caught:
        look(module)
    message = str(caught.value)
    assert "  0 and 2 more: is depthwise" in message
    assert "  3: is a transposed convolution" in message


def test_a_scalar_output_is_refused() -> None:
    """Outputs of several samples could not be told apart."""

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.conv(x)
            return features.mean()

    with pytest.raises(UserInputError, match="returned a scalar; expected outputs whose first axis is the batch"):
        survey(Mean(), InputSpec("input", (1, 3, 8, 8)))


# --- layers that hold factors ---------------------------------------------------------------------------------------


def test_fixed_layers_are_sites_whatever_the_patterns_say() -> None:
    """A depthwise one and a linear one too, in order of execution."""
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 5)).eval()
    found = survey(net, SPEC, ("1",), ("0",), ("3", "0"))
    assert [site.name for site in found.sites] == ["0", "1", "3"]
    assert found.skipped == ()


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (lambda net, x: net.part(net.part(x)), "is called 2 times in one forward"),
        (lambda _net, x: x, "is never called in forward"),
        (lambda net, x: net.part(x) + net.part.weight.sum(), "its weight is used outside its own call"),
    ],
)
def test_a_fixed_layer_in_a_place_where_it_cannot_stay(run: Callable[[Net, Tensor], Tensor], says: str) -> None:
    net = Net(run, part=nn.Conv2d(4, 4, 3, padding=1)).eval()
    with pytest.raises(UserInputError, match=f"MODEL: part: holds factors, and {says}"):
        survey(net, SPEC, fixed=("part",))
