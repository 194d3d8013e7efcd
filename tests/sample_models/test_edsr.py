import torch

from sample_models.edsr import EDSR, MeanShift, edsr8


def test_edsr8_has_8_blocks_of_128_channels() -> None:
    with torch.device("meta"):
        model = edsr8()
    conv = 128 * 128 * 9 + 128
    expected = (3 * 128 * 9 + 128) + (2 * 8 + 1) * conv + 2 * 4 * conv + (128 * 3 * 9 + 3)
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == expected


def test_keys_are_edsr_pytorch_s() -> None:
    with torch.device("meta"):
        keys = set(edsr8().state_dict())
    modules = ["sub_mean", "add_mean", "head.0", "body.8", "tail.0.0", "tail.0.2", "tail.1"]
    modules += [f"body.{block}.body.{conv}" for block in range(8) for conv in (0, 2)]
    assert keys == {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}


def test_output_is_four_times_larger_on_each_side() -> None:
    with torch.no_grad():
        assert EDSR(blocks=1, channels=4)(torch.rand(2, 3, 5, 7)).shape == (2, 3, 20, 28)


def test_subtracting_and_adding_the_mean_cancel() -> None:
    pixels = 255 * torch.rand(1, 3, 4, 4)
    shifted = MeanShift(-1)(pixels)
    torch.testing.assert_close(
        pixels.mean(dim=(2, 3)) - shifted.mean(dim=(2, 3)), torch.tensor([[114.444, 111.4605, 103.02]])
    )
    torch.testing.assert_close(MeanShift(1)(shifted), pixels)
