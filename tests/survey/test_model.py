import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from kronexport.errors import UserInputError
from kronexport.survey.model import copied_model, load_model

HEADER = "import torch\nfrom torch import nn\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with sys.path put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def factory(folder: Path, body: str) -> str:
    """The spec of a factory with this body, in a file of its own."""
    (folder / "net.py").write_text(f"{HEADER}def model():\n    {body}\n")
    return "net.py:model"


def refusal(spec: str, weights: Path | None = None) -> str:
    with pytest.raises(UserInputError) as caught:
        load_model(spec, weights)
    return str(caught.value)


def test_sample() -> None:
    loaded = load_model("sample:resnet20")
    assert loaded.sample is not None
    assert (loaded.name, loaded.sample.name) == ("sample:resnet20", "resnet20")
    assert not loaded.module.training


def test_unknown_sample_suggests() -> None:
    message = refusal("sample:resnet21")
    assert message.startswith("MODEL sample:resnet21: ")
    assert "resnet20" in message


def test_users_own_file_with_a_relative_import(folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "blocks.py").write_text(f"{HEADER}class Block(nn.Conv2d): ...\n")
    (folder / "mine" / "net.py").write_text("from .blocks import Block\ndef model(): return Block(3, 4, 1)\n")
    loaded = load_model("mine/net.py:model")
    assert type(loaded.module).__name__ == "Block"
    assert loaded.sample is None


def test_class_is_a_factory(folder: Path) -> None:
    (folder / "net.py").write_text(f"{HEADER}class Net(nn.Sequential): ...\n")
    assert isinstance(load_model("net.py:Net").module, nn.Sequential)


def test_training_mode_and_half_precision_are_left(folder: Path) -> None:
    loaded = load_model(factory(folder, "return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).half().train()"))
    assert not any(part.training for part in loaded.module.modules())
    assert {tensor.dtype for tensor in loaded.module.parameters()} == {torch.float32}


def test_weights_are_loaded(folder: Path) -> None:
    torch.save({"weight": torch.full((2, 1, 1, 1), 3.0)}, folder / "w.pt")
    loaded = load_model(factory(folder, "return nn.Conv2d(1, 2, 1, bias=False)"), folder / "w.pt")
    assert next(loaded.module.parameters()).tolist() == [[[[3.0]]], [[[3.0]]]]


def test_nan_in_the_weights_file_names_file_parameter_and_count(folder: Path) -> None:
    torch.save({"weight": torch.tensor([1.0, float("nan"), float("inf")]).reshape(3, 1, 1, 1)}, folder / "w.pt")
    message = refusal(factory(folder, "return nn.Conv2d(1, 3, 1, bias=False)"), folder / "w.pt")
    assert "w.pt: weight has 1 NaN and 1 infinite of 3 values" in message


def test_nan_of_the_factory_itself_is_found(folder: Path) -> None:
    message = refusal(factory(folder, "m = nn.BatchNorm2d(2); m.running_mean[1] = float('nan'); return m"))
    assert "MODEL net.py:model: running_mean has 1 NaN" in message


def test_factory_that_raises_shows_the_users_last_line(folder: Path) -> None:
    message = refusal(factory(folder, "return nn.Conv2d(3, 5, 1, groups=2)"))
    assert "calling the factory: raised ValueError: in_channels must be divisible by groups" in message
    assert f"{folder / 'net.py'}:4, in model" in message


def test_factory_with_arguments(folder: Path) -> None:
    (folder / "net.py").write_text("def model(depth, width=3): ...\n")
    message = refusal("net.py:model")
    assert "takes (depth, width=3), but is called without arguments" in message
    assert "give them defaults" in message


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return {'state_dict': 1}", "returned a dict; expected a torch.nn.Module"),
        ("return None", "returned a NoneType; expected a torch.nn.Module"),
        ("return nn.Conv2d", "returned a type; expected a torch.nn.Module"),
        ("return nn.LazyConv2d(3, 1)", "weight has no shape yet; run it once"),
        ("return nn.Conv2d(1, 1, 1, device='meta')", "has no values (device 'meta')"),
        ("m = nn.Sequential(); m.add_module('_orig_mod', nn.ReLU()); return m", "before torch.compile"),
        ("return torch.jit.trace(nn.ReLU(), torch.zeros(1))", "TorchScript; expected the nn.Module"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_what_is_no_usable_module(folder: Path, body: str, says: str) -> None:
    assert says in refusal(factory(folder, body))


def test_a_copied_model_is_ready_and_the_users_own_stays() -> None:
    """Whatever its mode and type are."""
    own = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).half()
    copied = copied_model(own, "compress")
    assert not copied.training
    assert own.training
    assert {parameter.dtype for parameter in copied.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in own.parameters()} == {torch.float16}
    torch.testing.assert_close(copied.get_parameter("0.weight"), own.get_parameter("0.weight").float(), rtol=0, atol=0)


def test_a_model_that_cannot_be_copied_says_why() -> None:
    own = nn.Conv2d(3, 4, 1)
    own.lock = threading.Lock()  # type: ignore[assignment]  # to torch attributes are modules or tensors
    with pytest.raises(UserInputError, match=r"compress: the model cannot be copied \(TypeError: cannot pickle"):
        copied_model(own, "compress")


def test_a_tensor_that_is_a_result_is_copied_as_it_is() -> None:
    """Torch copies none: weight_norm and pruning leave such weights behind."""
    own = nn.Conv2d(3, 4, 1)
    own.scale = own.weight.mean()
    copied = copied_model(own, "compress")
    assert isinstance(copied.scale, torch.Tensor)
    assert copied.scale is not own.scale
    torch.testing.assert_close(copied.scale, own.scale.detach(), rtol=0, atol=0)


def test_an_exported_program_brings_its_weights(folder: Path) -> None:
    """So it takes no others."""
    torch.export.save(torch.export.export(nn.Sequential(nn.Conv2d(3, 4, 1)).eval(), (torch.ones(1, 3, 8, 8),)), "n.pt2")
    loaded = load_model("n.pt2")
    assert (loaded.input_shape, loaded.sample, loaded.weights) == ((1, 3, 8, 8), None, None)
    assert isinstance(loaded.module.get_submodule("0"), nn.Conv2d)
    message = refusal("n.pt2", folder / "w.pt")
    assert message.startswith(f"--weights {folder / 'w.pt'}: n.pt2 holds its weights")


def test_nan_in_an_exported_program_is_found() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    nn.init.constant_(model.get_parameter("0.bias"), float("nan"))
    torch.export.save(torch.export.export(model.eval(), (torch.ones(1, 3, 8, 8),)), "n.pt2")
    assert "MODEL n.pt2: 0.bias has 4 NaN" in refusal("n.pt2")
