from pathlib import Path

import numpy as np
import torch

from benchmarks.upresnet10 import MARGIN, UpResNet10, load_upresnet10


def test_chainers_weights_are_found_by_name_and_the_output_is_twice_the_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = UpResNet10().state_dict()
    endings = {"weight": "W", "bias": "b"}
    keys = {name: "/".join([*name.split(".")[:-1], endings[name.split(".")[-1]]]) for name in state}
    path = tmp_path / "weights.npz"
    np.savez(path, **{keys[name]: value.numpy() for name, value in state.items()})
    model = load_upresnet10(path)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model(torch.zeros(1, 3, 6 + 2 * MARGIN, 8 + 2 * MARGIN)).shape == (1, 3, 12, 16)
