import torch

from sample_models.srresnet import SRResNet, srresnet


def test_srresnet_has_16_blocks_of_64_channels() -> None:
    """As many parameters as the public weights have."""
    with torch.device("meta"):
        model = srresnet()
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_517_571


def test_output_is_four_times_larger_on_each_side() -> None:
    with torch.no_grad():
        assert SRResNet(blocks=1, channels=4)(torch.rand(2, 3, 5, 7)).shape == (2, 3, 20, 28)


def test_without_weights_it_scales_bilinearly() -> None:
    model = SRResNet(blocks=1, channels=4)
    torch.nn.init.zeros_(model.conv_last.weight)
    torch.nn.init.zeros_(torch.nn.Module.get_parameter(model, "conv_last.bias"))
    flat = torch.full((1, 3, 4, 4), 0.25)
    with torch.no_grad():
        torch.testing.assert_close(model(flat), torch.full((1, 3, 16, 16), 0.25))
