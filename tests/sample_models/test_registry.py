import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kronexport.errors import UserInputError
from kronexport.export.replace import without_factors
from sample_models import factories, registry
from sample_models.factories import COMPRESSED
from sample_models.registry import SAMPLES, load_sample

# Two images of a size that keeps the test fast; the networks for 224 x 224 take any multiple of 32.
_FAST = {
    "resnet18": 64,
    "resnet34": 64,
    "resnet50": 64,
    "mobilenetv2": 96,
    "seresnet50": 64,
    "edsr8": 16,
    "srresnet": 16,
}


def test_every_network_is_registered_under_its_own_name() -> None:
    cifar = {"resnet20", "resnet32", "resnet44", "resnet56", *COMPRESSED}
    imagenet = {"resnet18", "resnet34", "resnet50", "mobilenetv2", "seresnet50", "vgg11"}
    assert set(SAMPLES) == {*cifar, *imagenet, "edsr8", "srresnet"}
    assert all(sample.name == name for name, sample in SAMPLES.items())


def test_calibration_has_the_shape_that_the_input_asks_for() -> None:
    for sample in SAMPLES.values():
        images = sample.calibration()
        assert images.shape[1:] == sample.input_shape[1:]
        assert images.dtype == np.float32


def _activation_sizes(model: nn.Module, images: Tensor) -> list[float]:
    """Root mean square of the output of every conv and of the network."""
    sizes: list[float] = []

    def record(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sizes.append(output.square().mean().sqrt().item())

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(record)
    with torch.inference_mode():
        record(model, (images,), model(images))
    return sizes


@pytest.mark.parametrize("name", ["resnet56", *_FAST])
def test_seeded_network_neither_explodes_nor_vanishes(name: str) -> None:
    """The activations of every layer stay within a factor of 20 of the input, which is about 1 (EDSR: 100)."""
    sample = SAMPLES[name]
    size = _FAST.get(name, sample.input_shape[2])
    images = torch.from_numpy(sample.calibration()[:2, :, :size, :size])
    scale = images.square().mean().sqrt().item()
    sizes = _activation_sizes(factories.build_seeded(name), images)
    assert min(sizes) > scale / 20
    assert max(sizes) < scale * 20


def test_sample_without_weights_is_seeded_and_has_no_evaluator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "WEIGHTS_FOLDER", tmp_path)
    sample = load_sample("resnet20")
    assert not sample.trained
    assert sample.evaluator is None
    expected = factories.build_seeded("resnet20").state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in sample.factory().state_dict().items())


def test_sample_with_weights_loads_them_and_is_scored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state = factories.build_seeded("resnet20").state_dict()
    state["linear.bias"] += 1
    save_file(state, tmp_path / "resnet20.safetensors")
    monkeypatch.setattr(registry, "WEIGHTS_FOLDER", tmp_path)
    sample = load_sample("resnet20")
    assert sample.trained
    assert torch.equal(sample.factory().state_dict()["linear.bias"], state["linear.bias"])
    assert sample.evaluator is not None
    chance = sample.evaluator(lambda images: np.eye(10, dtype=np.float32)[[0] * len(images)])
    assert chance == pytest.approx(10, abs=0.5)


def test_trained_networks_without_labelled_images_have_no_evaluator(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "resnet18.safetensors").touch()
    monkeypatch.setattr(registry, "WEIGHTS_FOLDER", tmp_path)
    assert load_sample("resnet18").evaluator is None


def test_misspelt_name_is_answered_with_the_closest_and_all() -> None:
    with pytest.raises(ValueError, match=r"sample:resnet21: .*did you mean .*resnet20.*expected one of .*edsr8"):
        load_sample("resnet21")


def test_unlike_name_gets_no_guess() -> None:
    with pytest.raises(ValueError, match=r"sample:zzz: no such sample; expected one of"):
        load_sample("zzz")


def test_importing_the_registry_does_not_load_torch() -> None:
    code = "import sys, sample_models.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_compressed_network_without_its_factors_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Seeded factors would be no compressed network."""
    monkeypatch.setattr(registry, "WEIGHTS_FOLDER", tmp_path)
    with pytest.raises(UserInputError, match=r"resnet32-cp-5x\.safetensors: there is no such file"):
        load_sample("resnet32-cp-5x").factory()


# What the weights' README says in percent, less three standard errors of 512 images.
LEAST = {"resnet20": 92.34 - 3.6, "resnet32-cp-5x": 91.68 - 3.8, "resnet32-gkpd-5x": 91.12 - 3.8}


@pytest.mark.parametrize("name", LEAST)
def test_shipped_network_is_as_good_as_its_recipe_says(name: str) -> None:
    """In the dense form, for a factorized layer makes its weight anew for each image."""
    sample = SAMPLES[name]
    model, _ = without_factors(sample.factory())

    @torch.inference_mode()
    def predict(images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = model(torch.from_numpy(images)).numpy()
        return logits

    assert sample.evaluator is not None
    assert sample.evaluator(predict) > LEAST[name]


@pytest.mark.parametrize("name", sorted(COMPRESSED))
def test_compressed_network_has_a_fifth_of_the_params(name: str) -> None:
    dense, compressed = (
        sum(one.numel() for one in model.parameters())
        for model in (factories.build_seeded("resnet32"), SAMPLES[name].factory())
    )
    assert dense == 464_154
    assert compressed <= dense / 5
