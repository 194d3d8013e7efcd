import torch
from torch import nn

from sample_models.seresnet import SEResNet50, SqueezeExcitation


def _on_meta() -> SEResNet50:
    with torch.device("meta"):
        return SEResNet50()


def test_size_is_the_public_one() -> None:
    assert sum(parameter.numel() for parameter in _on_meta().parameters()) == 28_088_024


def test_keys_and_shapes_are_cadene_s() -> None:
    state = _on_meta().state_dict()
    shapes = {
        "layer0.conv1.weight": (64, 3, 7, 7),
        "layer0.bn1.running_mean": (64,),
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.bias": (256,),
        "layer2.3.se_module.fc1.weight": (32, 512, 1, 1),
        "layer4.2.se_module.fc1.bias": (128,),
        "layer4.2.se_module.fc2.weight": (2048, 128, 1, 1),
        "last_linear.weight": (1000, 2048),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


def test_stride_is_in_the_first_1x1_conv() -> None:
    strided = [
        name for name, module in _on_meta().named_modules() if isinstance(module, nn.Conv2d) and module.stride == (2, 2)
    ]
    inside = [f"layer{i}.0.{end}" for i in (2, 3, 4) for end in ("downsample.0", "conv1")]
    assert sorted(strided) == sorted(["layer0.conv1", *inside])


def test_excitation_scales_each_channel_by_one_weight_in_0_to_1() -> None:
    x = torch.rand(2, 32, 5, 5) + 0.5
    with torch.no_grad():
        ratio = SqueezeExcitation(32)(x) / x
    torch.testing.assert_close(ratio, ratio[:, :, :1, :1].expand_as(ratio))
    assert ((ratio > 0) & (ratio < 1)).all()


def test_an_image_gives_1000_logits() -> None:
    assert _on_meta()(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)
