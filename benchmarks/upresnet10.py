"""UpResNet10 of waifu2x: x2 super-resolution by residual blocks with squeeze and excitation, valid convolutions."""

from pathlib import Path

import torch
import torch.nn.functional as F  # PyTorch's own name for it
from torch import Tensor, nn

from kronexport.survey.weights import read_state_dict

MARGIN = 13
"""Pixels of the input on each side that have no output of their own."""
_SLOPE = 0.1
_CHANNELS, _SQUEEZED = 64, 16


class SqueezeBlock(nn.Module):
    """[N, 64, H, W] -> [N, 64, H - 4, W - 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(_CHANNELS, _CHANNELS, 3)
        self.conv2 = nn.Conv2d(_CHANNELS, _CHANNELS, 3)
        self.fc1 = nn.Linear(_CHANNELS, _SQUEEZED)
        self.fc2 = nn.Linear(_SQUEEZED, _CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        out = F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x), _SLOPE)), _SLOPE)
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(out.mean(dim=(2, 3))))))
        return out * gate[:, :, None, None] + x[:, :, 2:-2, 2:-2]


class UpResNet10(nn.Module):
    """RGB 0..1 with a margin, [N, 3, H + 26, W + 26] -> [N, 3, 2 H, 2 W]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_pre = nn.Conv2d(3, _CHANNELS, 3)
        self.res1, self.res2, self.res3, self.res4, self.res5 = (SqueezeBlock() for _ in range(5))
        self.conv_bridge = nn.Conv2d(_CHANNELS, _CHANNELS, 3)
        self.conv_post = nn.ConvTranspose2d(_CHANNELS, 3, 4, 2, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first = F.leaky_relu(self.conv_pre(x), _SLOPE)
        out = self.res5(self.res4(self.res3(self.res2(self.res1(first)))))
        out = F.leaky_relu(self.conv_bridge(out), _SLOPE) + first[:, :, 11:-11, 11:-11]
        pixels: Tensor = self.conv_post(out)
        return pixels


def load_upresnet10(weights: Path) -> UpResNet10:
    """In eval mode, with the weights of an .npz that has Chainer's keys (``res1/conv1/W``, ``res1/conv1/b``).

    Raises:
        UserInputError: the file cannot be read.
        RuntimeError: its keys or shapes are others.
    """
    model = UpResNet10()
    endings = {"W": "weight", "b": "bias"}
    state = {}
    for key, value in read_state_dict(weights).items():
        *path, ending = key.split("/")
        state[".".join([*path, endings[ending]])] = value
    model.load_state_dict(state)
    return model.eval()
