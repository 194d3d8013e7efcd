from pathlib import Path

import pytest
import torch

from sample_models import cifar10
from sample_models.cifar_resnet import BasicBlock, CifarResNet


@pytest.mark.parametrize(("depth", "params"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)])
def test_parameter_count_is_the_public_one(depth: int, params: int) -> None:
    with torch.device("meta"):
        model = CifarResNet(depth)
    assert sum(parameter.numel() for parameter in model.parameters()) == params


@pytest.mark.parametrize("depth", [2, 21])
def test_impossible_depth_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"got {depth}, expected 6 n"):
        CifarResNet(depth)


def test_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides() -> None:
    block = BasicBlock(2, 4, stride=2)
    x = torch.arange(32.0).reshape(1, 2, 4, 4)
    out = block.shortcut(x)
    torch.testing.assert_close(out[:, 1:3], x[:, :, ::2, ::2])
    assert out.shape == (1, 4, 2, 2)
    assert not out[:, [0, 3]].any()


@pytest.mark.parametrize(
    ("depth", "name", "accuracy"), [(20, "resnet20-12fca82f.th", 91.73), (32, "resnet32-d509ac18.th", 92.63)]
)
def test_public_checkpoint_loads_and_reaches_its_accuracy(
    depth: int, name: str, accuracy: float, checkpoints: Path
) -> None:
    """Within three standard errors (1.2 points) of the published figure on the 512 shipped test images."""
    state = torch.load(checkpoints / name, map_location="cpu", weights_only=True)["state_dict"]
    model = CifarResNet(depth)
    model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    pixels, labels = cifar10.read_sample("test")
    with torch.inference_mode():
        logits = model.eval()(torch.from_numpy(cifar10.normalize(pixels)))
    assert 100 * (logits.argmax(1).numpy() == labels).mean() == pytest.approx(accuracy, abs=3.6)
