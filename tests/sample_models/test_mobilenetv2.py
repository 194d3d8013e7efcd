import torch
from torch import nn

from sample_models.mobilenetv2 import MobileNetV2, ResidualInvertedBottleneck


def _on_meta() -> MobileNetV2:
    with torch.device("meta"):
        return MobileNetV2()


def test_size_is_torchvision_s() -> None:
    model = _on_meta()
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_504_872
    assert len(model.state_dict()) == 314


def test_keys_and_shapes_are_torchvision_s() -> None:
    state = _on_meta().state_dict()
    shapes = {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.0.1.running_mean": (32,),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.1.conv.2.bias": (16,),
        "features.2.conv.0.0.weight": (96, 16, 1, 1),
        "features.2.conv.1.0.weight": (96, 1, 3, 3),
        "features.2.conv.2.weight": (24, 96, 1, 1),
        "features.17.conv.3.running_var": (320,),
        "features.18.0.weight": (1280, 320, 1, 1),
        "features.18.1.weight": (1280,),
        "classifier.1.weight": (1000, 1280),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


def test_ten_blocks_add_their_input() -> None:
    assert sum(isinstance(module, ResidualInvertedBottleneck) for module in _on_meta().modules()) == 10


def test_residual_block_of_zero_weights_passes_its_input_on() -> None:
    block = ResidualInvertedBottleneck(8, expansion=6).eval()
    nn.init.zeros_(block.branch_end.weight)
    x = torch.randn(1, 8, 5, 5)
    torch.testing.assert_close(block(x), x)


def test_an_image_gives_1000_logits() -> None:
    assert _on_meta()(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)
