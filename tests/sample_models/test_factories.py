from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sample_models import factories
from sample_models.registry import SAMPLES


def test_every_registered_sample_has_an_architecture() -> None:
    assert set(factories.ARCHITECTURES) | set(factories.COMPRESSED) == set(SAMPLES)
    assert not set(factories.ARCHITECTURES) & set(factories.COMPRESSED)


def test_trained_weights_are_loaded_in_eval_mode_without_touching_random_state(tmp_path: Path) -> None:
    state = {key: value + 1 for key, value in factories.build_seeded("resnet20").state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    before = torch.get_rng_state()
    model = factories.build_trained("resnet20", tmp_path / "weights.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file(factories.build_seeded("resnet20").state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(RuntimeError, match=r"Missing key.*layer1\.3"):
        factories.build_trained("resnet32", tmp_path / "weights.safetensors")
