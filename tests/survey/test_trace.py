import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kronexport.errors import UserInputError
from kronexport.records import InputSpec
from kronexport.survey.trace import trace

SPEC = InputSpec("input", (2, 3, 8, 8))


class Calls(nn.Module):
    """A module whose forward is any function of its input."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> object:
        assert callable(self.function)
        return self.function(images)


@pytest.mark.parametrize(
    ("module", "macs"),
    [
        (nn.Conv2d(3, 4, 3, padding=1), 2 * 8 * 8 * 4 * 3 * 9),
        (nn.Conv2d(3, 6, 3, stride=2, groups=3), 2 * 3 * 3 * 6 * 9),
        (nn.ConvTranspose2d(3, 5, 2, stride=2), 2 * 8 * 8 * 3 * 5 * 4),
        (nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 2, 3)), 2 * 62 * 2 * 3 * 3),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), 2 * 192 * 10),
        (nn.Linear(8, 5), 2 * 3 * 8 * 8 * 5),
        (Calls(lambda x: functional.conv2d(x, torch.ones(4, 3, 1, 1))), 2 * 64 * 12),
        (Calls(lambda x: x @ x), 2 * 3 * 8 * 8 * 8),
        (Calls(lambda x: x @ torch.ones(8)), 2 * 3 * 8 * 8),
        (Calls(lambda x: x[0, 0] @ torch.ones(8)), 8 * 8),
        (Calls(lambda x: torch.einsum("nchw,nkhw->nck", x, x)), 2 * 3 * 3 * 64),
        (nn.Sequential(nn.Flatten(0, 1), nn.GRU(8, 5), Calls(lambda found: found[0])), 6 * 8 * 3 * 5 * (8 + 5)),
        (nn.Sequential(nn.Flatten(0, 1), nn.LSTM(8, 5), Calls(lambda found: found[0])), 6 * 8 * 4 * 5 * (8 + 5)),
        (Calls(lambda x: functional.scaled_dot_product_attention(x, x, x)), 2 * 3 * 8 * 8 * 8 * 2),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2)), 0),
    ],
)
def test_macs_are_those_of_convolutions_and_matrix_products(module: nn.Module, macs: int) -> None:
    assert trace(module.eval(), SPEC).macs == macs


def test_fused_attention_is_counted() -> None:
    """In eval mode torch would run it as one operator; its projections and products count all the same."""
    attention = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True).eval()
    tokens, width, hidden = 8, 8, 16
    per_image = tokens * (4 * width * width + 2 * width * hidden) + 2 * tokens * tokens * width
    assert trace(Calls(lambda x: attention(x[:, 0])).eval(), SPEC).macs == 2 * per_image
    assert torch.backends.mha.get_fastpath_enabled()


def test_calls_are_in_order_of_execution_with_full_shapes() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second = nn.Conv2d(4, 2, 1)
            self.first = nn.Conv2d(3, 4, 3)

        def forward(self, images: Tensor) -> Tensor:
            result: Tensor = self.second(input=self.first(images))
            return result

    calls = trace(Backwards().eval(), SPEC).calls
    assert list(calls) == ["first", "second"]
    assert calls["second"][0].input_shape == (2, 4, 6, 6)
    assert calls["second"][0].output_shape == (2, 2, 6, 6)


def test_a_model_that_gives_something_else_each_time_is_refused() -> None:
    """As one whose dropout does not heed eval."""

    class Random(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(x, 0.3)

    with pytest.raises(UserInputError, match=r"--input 1x3x8x8: the model gives other outputs .* heed model\.eval"):
        trace(Random().eval(), InputSpec("input", (1, 3, 8, 8)))


@pytest.mark.filterwarnings("ignore:.*nested_tensor:UserWarning")
def test_padding_that_torch_computes_in_two_ways_is_nothing_random() -> None:
    """Its fast path for a masked encoder writes zeros where the other one leaves what there is."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.body = nn.TransformerEncoder(layer, 1)

        def forward(self, x: Tensor) -> Tensor:
            mask = torch.zeros(2, 24, dtype=torch.bool)
            mask[:, 20:] = True
            output: Tensor = self.body(x.reshape(2, 24, 8), src_key_padding_mask=mask)
            return output

    assert trace(Masked().eval(), SPEC).macs > 0


def test_no_hook_stays_on_the_module() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1))
    trace(module.eval(), SPEC)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_no_hook_stays_after_an_error() -> None:
    module = nn.Sequential(nn.Conv2d(5, 4, 1))
    with pytest.raises(UserInputError):
        trace(module.eval(), SPEC)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_random_state_of_the_caller_is_left_alone() -> None:
    module = nn.Conv2d(3, 4, 1).eval()
    before = torch.get_rng_state()
    trace(module, SPEC)
    assert torch.equal(torch.get_rng_state(), before)


def test_refused_input_shows_shape_exception_and_the_users_line() -> None:
    conv = nn.Conv2d(5, 4, 1)

    def forward(images: Tensor) -> Tensor:
        result: Tensor = conv(images)
        return result

    with pytest.raises(UserInputError) as caught:
        trace(Calls(forward).eval(), SPEC)
    message = str(caught.value)
    assert message.startswith("--input 2x3x8x8: the model refuses it; its forward: raised RuntimeError: Given groups=1")
    assert "test_trace.py" in message
    assert "result: Tensor = conv(images)" in message


@pytest.mark.parametrize("output", [lambda x: (x, [x]), lambda x: {"a": x, "b": (x, x)}])
def test_nested_tensors_are_an_output(output: object) -> None:
    assert trace(Calls(output).eval(), SPEC).macs == 0


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (lambda _: None, "returned a NoneType"),
        (lambda _: (), "returned a tuple"),
        (lambda x: x.numpy(), "returned a ndarray;"),
        (lambda x: [x.numpy()], "returned a list holding a ndarray;"),
        (lambda x: (x, None), "returned a tuple holding a NoneType"),
        (lambda x: {"size": x.shape[0]}, "returned a dict holding a int"),
    ],
)
def test_other_outputs_are_refused(output: object, says: str) -> None:
    with pytest.raises(UserInputError) as caught:
        trace(Calls(output).eval(), SPEC)
    assert says in str(caught.value)
    assert "expected a tensor, or a tuple, list or dict of tensors" in str(caught.value)


class Followers(nn.Module):
    """Convs whose outputs are read in different ways."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.normed, self.bare, self.past = (nn.Conv2d(4, 4, 1) for _ in range(4))
        self.norm, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.plain(x).relu_()
        x = self.norm(self.normed(x)).relu()
        y = self.bare(x)
        z = self.past(y + x)
        found: Tensor = self.other(z).relu() + z
        return found


def test_what_follows_a_layer() -> None:
    """A norm or a ReLU counts where nothing else reads what it reads."""
    found = trace(Followers().eval(), InputSpec("input", (1, 4, 5, 5)))
    assert found.normed == {"normed"}
    assert found.activated == {"plain", "normed"}
