"""factors.safetensors: what is written is put back bit by bit, and nothing else passes for it."""

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kronexport.errors import KronexportError, UserInputError
from kronexport.export.factors_file import load_compressed, save_compressed
from kronexport.export.module import KroneckerConv2d
from kronexport.export.replace import factorized
from kronexport.factorize.decompose import decompose
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.records import Structure

GKPD = gkpd_structure((3, 2, 3, 1), (2, 2, 1, 3), 2)
ONE = {"method": "gkpd", "ranks": [1], "factors": [["a", 3, 2, 3, 1], ["a", 2, 2, 1, 3]]}
TENSORS = {"0.factors.0": torch.ones(1, 3, 2, 3, 1), "0.factors.1": torch.ones(1, 2, 2, 1, 3)}


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Sequential(nn.Conv2d(6, 8, 3, padding=1)))


@pytest.fixture
def model() -> nn.Sequential:
    return network(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "factors.safetensors"


def silent(_done: int, _total: int) -> None:
    """No progress."""


def structures(model: nn.Module, method: str, ranks: tuple[int, ...]) -> dict[str, Structure]:
    weight = model.get_parameter("2.0.weight").detach().numpy()
    return {"0": GKPD, "2.0": decompose(weight, method, ranks).structure}


@pytest.mark.parametrize(
    ("method", "ranks"),
    [("cp", (5,)), ("tucker", (3, 4, 2, 2)), ("tucker2", (3, 4)), ("tt", (3, 4, 2)), ("tr", (2,) * 3)],
)
def test_what_is_loaded_computes_the_same_bit_by_bit(
    model: nn.Sequential, path: Path, method: str, ranks: tuple[int, ...]
) -> None:
    """Into a model of other weights, which stays as it is."""
    compressed = factorized(model.eval(), structures(model, method, ranks), None, silent)
    save_compressed(compressed, path)
    other = network(1).eval()
    x = torch.randn(2, 4, 9, 7)
    with torch.no_grad():
        assert torch.equal(load_compressed(other, path)(x), compressed(x))
    assert isinstance(other[0], nn.Conv2d)


def test_grouped_convs_and_linear_layers_are_put_back(path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(8, 6, 3, groups=2), nn.Flatten(), nn.Linear(24, 5)).eval()
    named = {"0": gkpd_structure((6, 1, 3, 1), (1, 4, 1, 3), 2), "2": gkpd_structure((5, 1, 1, 1), (1, 24, 1, 1), 2)}
    compressed = factorized(model, named, None, silent)
    save_compressed(compressed, path)
    x = torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        assert torch.equal(load_compressed(model, path)(x), compressed(x))


def test_what_training_changed_beside_the_factors_is_in_it(model: nn.Sequential, path: Path) -> None:
    """Biases, other weights and statistics; types and mode are those of the model. A path may be a text."""
    trained = factorized(model, {"0": GKPD}, None, silent).train()
    trained(torch.randn(2, 4, 9, 7))
    save_compressed(trained, str(path))
    loaded = load_compressed(network(1).double().train(), str(path))
    assert loaded.training
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float64}
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name].to(value), value, rtol=0, atol=0)


def test_a_layer_of_two_names_is_written(path: Path) -> None:
    """Which safetensors alone refuses."""
    conv = nn.Conv2d(4, 4, 3, padding=1)
    shared = nn.Sequential(conv, nn.ReLU(), conv).eval()
    save_compressed(shared, path)
    x = torch.randn(1, 4, 5, 5)
    other = nn.Conv2d(4, 4, 3, padding=1)
    with torch.no_grad():
        assert torch.equal(load_compressed(nn.Sequential(other, nn.ReLU(), other).eval(), path)(x), shared(x))


def test_factors_of_a_model_in_bfloat16_are_read(model: nn.Sequential, path: Path) -> None:
    """Though numpy does not know that type."""
    compressed = factorized(model, {"0": GKPD}, None, silent).bfloat16()
    save_compressed(compressed, path)
    site = load_compressed(model, path).get_submodule("0")
    assert isinstance(site, KroneckerConv2d)
    torch.testing.assert_close(site.factors[0], compressed.get_parameter("0.factors.0").float(), rtol=0, atol=0)


def test_a_model_without_factors_gives_a_file_that_changes_nothing(model: nn.Sequential, path: Path) -> None:
    """A plan may leave every convolution dense."""
    save_compressed(model, path)
    assert [type(part) for part in load_compressed(model, path).modules()] == [type(part) for part in model.modules()]


def test_the_file_has_all_that_rebuilds_the_weight(model: nn.Sequential, path: Path) -> None:
    """Tensors by site and number, structures in the metadata."""
    replaced = factorized(model, {"0": GKPD}, None, silent)
    save_compressed(replaced, path)
    with safe_open(path, framework="np") as stored:
        structure = json.loads(stored.metadata()["structures"])["0"]
        outer, inner = (stored.get_tensor(f"0.factors.{k}") for k in (0, 1))
        others = set(model.state_dict()) - {"0.weight"}
        assert set(stored.keys()) == others | {"0.factors.0", "0.factors.1"}
    assert structure == ONE | {"ranks": [2]}
    weight = np.einsum("rfchw,rgdij->fgcdhiwj", outer, inner).reshape(6, 4, 3, 3)
    site = replaced.get_submodule("0")
    assert isinstance(site, KroneckerConv2d)
    np.testing.assert_allclose(weight, site.to_dense().detach().numpy(), rtol=1e-5, atol=1e-6)


def test_a_full_disk_leaves_no_factors_behind(
    model: nn.Sequential, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is said to be one, which the safetensors library alone does not."""

    def full(_path: Path, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(KronexportError, match=r"factors\.safetensors: disk full: \d+ bytes needed"):
        save_compressed(factorized(model, {"0": GKPD}, None, silent), path)
    assert list(path.parent.iterdir()) == []


# --- what is refused ----------------------------------------------------------------------------------------------


def refusal(model: nn.Module, path: Path) -> str:
    with pytest.raises(UserInputError) as caught:
        load_compressed(model, path)
    return str(caught.value)


def write(path: Path, site: str = "0", tensors: dict[str, Tensor] | None = None, **changed: Any) -> None:
    """A file of one site and the other values of ``network``; by default a sound one for the first conv."""
    found = TENSORS if tensors is None else tensors
    named = {name.replace("0.factors", f"{site}.factors"): tensor for name, tensor in found.items()}
    others = {name: value for name, value in network(1).state_dict().items() if name != f"{site}.weight"}
    save_file(others | named, path, metadata={"structures": json.dumps({site: ONE | changed})})


def test_the_sound_file_of_these_tests_is_read(model: nn.Sequential, path: Path) -> None:
    """Lest the refusals below be for another reason."""
    write(path)
    assert isinstance(load_compressed(model, path).get_submodule("0"), KroneckerConv2d)


def test_a_file_that_is_not_there(model: nn.Sequential, path: Path) -> None:
    assert refusal(model, path).startswith(f"{path}: there is no such file; expected factors.safetensors of a build")


@pytest.mark.parametrize("content", [b"", b"no safetensors file at all", b"\xff" * 64])
def test_a_file_of_another_kind(model: nn.Sequential, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert f"{path}: is damaged, or no safetensors file" in refusal(model, path)


def test_a_file_that_was_cut_off(model: nn.Sequential, path: Path) -> None:
    write(path)
    path.write_bytes(path.read_bytes()[:-4])
    assert "is damaged, or no safetensors file" in refusal(model, path)


def test_a_file_of_dense_weights(model: nn.Sequential, path: Path) -> None:
    save_file(dict(model.state_dict()), path)
    assert "has no metadata 'structures'; expected a file of factors" in refusal(model, path)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"ranks": "one"}, "structures' are damaged (0.ranks: Input should be a valid"),
        ({"factors": [["a", 3, 2, 3], ["a", 2, 2, 1, 3]]}, "structures' are damaged (0.factors.0.4: Field required"),
        ({"ranks": [1, 2]}, "0: Kronecker network: 2 ranks (1, 2) for 1 rank axes"),
        ({"ranks": [2]}, "0: Kronecker network: factor 1 has shape (1, 3, 2, 3, 1), the structure"),
        ({"method": None}, "structures' are damaged (0.method: Input should be a valid string"),
    ],
)
def test_structures_that_are_none(model: nn.Sequential, path: Path, changed: dict[str, Any], says: str) -> None:
    write(path, **changed)
    assert says in refusal(model, path)


@pytest.mark.parametrize("text", ["{", "[]", '"0"'])
def test_structures_that_are_no_table(model: nn.Sequential, path: Path, text: str) -> None:
    save_file(TENSORS, path, metadata={"structures": text})
    assert "its metadata 'structures' are damaged (JSON: " in refusal(model, path)


def test_a_factor_is_missing(model: nn.Sequential, path: Path) -> None:
    write(path, tensors={"0.factors.0": TENSORS["0.factors.0"]})
    assert "0.factors.1" in refusal(model, path)


def test_values_that_the_model_lacks_or_the_file(model: nn.Sequential, path: Path) -> None:
    """A BatchNorm less, one more, and one of another size."""
    write(path)
    fewer = nn.Sequential(model[0], nn.Identity(), model[2])
    assert f"{path}: 1.bias: the model has no such value" in refusal(fewer, path)
    more = nn.Sequential(*model, nn.BatchNorm2d(8))
    assert f"{path}: has no 3.weight, which the model has" in refusal(more, path)
    other = nn.Sequential(model[0], nn.BatchNorm2d(7), model[2])
    assert "1.bias: has shape (6,), the model's is (7,)" in refusal(other, path)


def test_a_site_that_the_model_lacks(model: nn.Sequential, path: Path) -> None:
    """Named, with the nearest that there is."""
    write(path, site="2.00")
    assert refusal(model, path) == (
        f"{path}: 2.00: the model has no such module; did you mean '2.0'?; give the architecture that was compressed"
    )


def test_a_site_that_is_no_conv(model: nn.Sequential, path: Path) -> None:
    write(path, site="1")
    assert "1: is a BatchNorm2d in the model, expected nn.Conv2d or nn.Linear; give the dense" in refusal(model, path)


def test_a_model_that_is_compressed_already(model: nn.Sequential, path: Path) -> None:
    write(path)
    assert "0: is a KroneckerConv2d in the model, expected nn.Conv2d or nn.Linear" in refusal(
        load_compressed(model, path), path
    )


def test_a_weight_of_another_shape(model: nn.Sequential, path: Path) -> None:
    """With what came, what was expected, and the remedy."""
    write(path, site="2.0")
    assert refusal(model, path) == (
        f"{path}: 2.0: the factors make a weight (6, 4, 3, 3), the layer's is (8, 6, 3, 3); expected the same: "
        "take the network that the factors were found for"
    )


def test_a_conv_that_factors_cannot_stand_for(path: Path) -> None:
    """It pads with something else, or has groups that the first factor does not tell apart."""
    write(path)
    assert "expected 'zeros'" in refusal(nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect")), path)
    assert "expected a multiple of 2" in refusal(nn.Sequential(nn.Conv2d(8, 6, 3, groups=2)), path)


@pytest.mark.parametrize(
    ("model", "says"), [("net.pt", "a str; expected"), (nn.Conv2d(1, 1, 1, device="meta"), "meta")]
)
def test_what_is_no_usable_model(path: Path, model: Any, says: str) -> None:
    write(path)
    with pytest.raises(UserInputError, match=says):
        load_compressed(model, path)
