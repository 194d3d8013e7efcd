from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from kronexport.errors import UserInputError
from kronexport.survey.weights import check_finite, load_weights, read_state_dict


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def save_npz(state: dict[str, Tensor], path: Path) -> None:
    np.savez(path, allow_pickle=False, **{name: tensor.numpy() for name, tensor in state.items()})


SAVERS: dict[str, Callable[[Any, Any], object]] = {
    ".safetensors": safetensors.torch.save_file,
    ".pt": torch.save,
    ".pth": torch.save,
    ".th": torch.save,
    ".npz": save_npz,
}


def refusal(path: Path, module: nn.Module | None = None) -> str:
    with pytest.raises(UserInputError) as caught:
        load_weights(module or network(), path)
    return str(caught.value)


@pytest.mark.parametrize("suffix", SAVERS)
def test_every_format_loads(tmp_path: Path, suffix: str) -> None:
    source, target = network(), network()
    SAVERS[suffix](source.state_dict(), tmp_path / f"w{suffix}")
    load_weights(target, tmp_path / f"w{suffix}")
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor), name


def test_state_dict_key_and_parallel_prefix_are_understood(tmp_path: Path) -> None:
    source, target = network(), network()
    state = {f"module.{name}": tensor for name, tensor in source.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 7, "best": 91.2}, tmp_path / "w.th")
    load_weights(target, tmp_path / "w.th")
    assert torch.equal(target.state_dict()["0.weight"], source.state_dict()["0.weight"])


PREFIXES = ["_orig_mod.", "module._orig_mod.", "model.", "module.model."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_wrappers_put_before_every_name_is_understood(tmp_path: Path, prefix: str) -> None:
    """torch.compile, DistributedDataParallel around it, Lightning."""
    source, target = network(), network()
    torch.save({prefix + name: tensor for name, tensor in source.state_dict().items()}, tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    assert torch.equal(target.state_dict()["0.weight"], source.state_dict()["0.weight"])


def test_an_average_of_weights_is_understood(tmp_path: Path) -> None:
    """AveragedModel counts beside them what it is the average of."""
    source, target = network(), network()
    torch.save(torch.optim.swa_utils.AveragedModel(source).state_dict(), tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    assert torch.equal(target.state_dict()["0.weight"], source.state_dict()["0.weight"])


@pytest.mark.parametrize("key", ["model", "model_state_dict", "net"])
def test_a_state_dict_under_any_key_is_understood(tmp_path: Path, key: str) -> None:
    """Beside what else a training keeps, if it is the only one."""
    source, target = network(), network()
    optimizer = torch.optim.SGD(source.parameters(), momentum=0.9, lr=0.1)
    source(torch.ones(1, 3, 4, 4)).sum().backward()
    optimizer.step()
    kept = {"epoch": 7, "optimizer": optimizer.state_dict(), "best": torch.tensor(91.2)}
    torch.save({key: source.state_dict(), **kept}, tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    assert torch.equal(target.state_dict()["0.weight"], source.state_dict()["0.weight"])
    torch.save({key: source.state_dict(), "ema": source.state_dict(), **kept}, tmp_path / "w.pt")
    assert f"holds 2 state dicts, '{key}', 'ema'; expected a state dict" in refusal(tmp_path / "w.pt")


def test_what_is_no_tensor_is_left_out(tmp_path: Path) -> None:
    source, target = network(), network()
    torch.save({**source.state_dict(), "epoch": 7}, tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    assert torch.equal(target.state_dict()["0.weight"], source.state_dict()["0.weight"])


def test_integers_for_floats_are_refused(tmp_path: Path) -> None:
    """Quantized weights without what they are scaled by; counters may be of any type."""
    state = network().state_dict()
    torch.save({**state, "2.weight": state["2.weight"].to(torch.int8)}, tmp_path / "w.pt")
    message = refusal(tmp_path / "w.pt")
    assert "1 tensors hold other numbers than the model's floats:" in message
    assert "2.weight: got torch.int8, expected torch.float32" in message
    counter = "1.num_batches_tracked"
    torch.save({**state, counter: state[counter].float()}, tmp_path / "w.pt")
    load_weights(network(), tmp_path / "w.pt")


def test_prefix_stays_where_the_model_has_it_itself(tmp_path: Path) -> None:
    source, target = (nn.Sequential(OrderedDict(module=nn.Conv2d(1, 2, 1))) for _ in range(2))
    torch.save(source.state_dict(), tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    assert torch.equal(target.state_dict()["module.weight"], source.state_dict()["module.weight"])


def test_what_safetensors_leaves_out_since_it_is_shared_is_not_missing(tmp_path: Path) -> None:
    """Its ``save_model`` keeps one name of each tensor."""
    source, target = (nn.Sequential(*[nn.Conv2d(2, 2, 1)] * 3, nn.Conv2d(2, 2, 1)) for _ in range(2))
    safetensors.torch.save_model(source, str(tmp_path / "w.safetensors"))
    load_weights(target, tmp_path / "w.safetensors")
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor), name
    apart = nn.Sequential(*(nn.Conv2d(2, 2, 1) for _ in range(4)))
    assert "4 missing in the file" in refusal(tmp_path / "w.safetensors", apart)


def test_an_array_of_texts_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", weight=np.zeros(3, np.float32), classes=np.array(["cat", "dog"]))
    assert "classes is <U3, not numbers" in refusal(tmp_path / "w.npz")


def test_half_precision_weights_become_the_models_type(tmp_path: Path) -> None:
    target = network()
    torch.save(network().half().state_dict(), tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    assert target.state_dict()["0.weight"].dtype == torch.float32


def test_checkpoint_without_batch_counters_loads(tmp_path: Path) -> None:
    """Old checkpoints and other frameworks have no num_batches_tracked; inference does not need it."""
    state = {name: tensor for name, tensor in network().state_dict().items() if "num_batches" not in name}
    save_npz(state, tmp_path / "w.npz")
    load_weights(network(), tmp_path / "w.npz")


def test_missing_and_unknown_names_are_listed_with_shape_and_close_match(tmp_path: Path) -> None:
    state = network().state_dict()
    state["0.weights"] = state.pop("0.weight")
    torch.save(state, tmp_path / "w.pt")
    message = refusal(tmp_path / "w.pt")
    assert "1 missing in the file:\n  0.weight [4, 3, 3, 3] (the file has 0.weights)" in message
    assert "1 unknown to the model:\n  0.weights [4, 3, 3, 3] (the model has 0.weight)" in message


def test_only_five_of_a_kind_are_listed(tmp_path: Path) -> None:
    torch.save({f"layer.{index}": torch.zeros(1) for index in range(8)}, tmp_path / "w.pt")
    message = refusal(tmp_path / "w.pt")
    assert "8 unknown to the model:" in message
    assert "layer.4 [1]" in message
    assert "layer.5" not in message
    assert "and 3 more" in message


def test_wrong_shape_gives_got_and_expected(tmp_path: Path) -> None:
    torch.save(network().state_dict() | {"2.weight": torch.zeros(9, 4, 1, 1)}, tmp_path / "w.pt")
    assert "2.weight: got [9, 4, 1, 1], expected [2, 4, 1, 1]" in refusal(tmp_path / "w.pt")


class NotTensors:
    """Stands for whatever a training script saves besides the weights."""


@pytest.mark.parametrize("content", [network(), {"state_dict": {}, "args": NotTensors()}], ids=["module", "arguments"])
def test_pickle_with_other_objects_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    message = refusal(tmp_path / "w.pt")
    assert "is refused" in message
    assert "torch.save(model.state_dict()" in message


@pytest.mark.parametrize("suffix", SAVERS)
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 cut off"])
def test_unreadable_file_is_named(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path}: is ")


@pytest.mark.parametrize("suffix", SAVERS)
def test_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    SAVERS[suffix](network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-200])
    assert str(path) in refusal(path)


def test_object_array_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", a=np.array([{}, 1], dtype=object))
    assert "is not a readable .npz" in refusal(tmp_path / "w.npz")


def test_single_array_under_the_name_of_an_archive_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.zeros(3))
    assert "a single array" in refusal((tmp_path / "w.npy").rename(tmp_path / "w.npz"))


def test_missing_file_and_unknown_suffix(tmp_path: Path) -> None:
    assert "there is no such weights file" in refusal(tmp_path / "w.pt")
    assert "give .safetensors, .pt, .pth, .th, .npz" in refusal(tmp_path / "w.h5")


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [torch.zeros(1)], torch.zeros(2)])
def test_file_without_a_state_dict_says_what_it_holds(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserInputError, match="expected a state dict"):
        read_state_dict(tmp_path / "w.pt")


def test_infinity_counts_in_parameters_and_statistics_but_not_in_masks() -> None:
    """An attention mask is infinite on purpose; a running variance never is."""
    module = network()
    module.register_buffer("mask", torch.full((2, 2), float("-inf")))
    check_finite(module, "MODEL")
    statistic = module[1].running_var
    assert isinstance(statistic, Tensor)
    statistic[:3] = float("inf")
    with pytest.raises(UserInputError, match=r"1\.running_var has 0 NaN and 3 infinite of 4"):
        check_finite(module, "MODEL")
