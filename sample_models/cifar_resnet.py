"""CIFAR ResNets (He et al., CVPR 2016, section 4.2): three stages of 16, 32 and 64 channels.

The state-dict keys are ``conv1, bn1, layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2}, linear``, so the public
checkpoints of depth 20, 32, 44 and 56 load as they are. Shortcuts are option A: strided slicing and
zero-padded channels, no parameters.
"""

import torch
import torch.nn.functional as F  # PyTorch's own name for it
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convs and a parameter-free shortcut: [N, C, H, W] -> [N, F, H/stride, W/stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.padded_channels = (out_channels - in_channels) // 2

    @property
    def branch_end(self) -> nn.BatchNorm2d:
        return self.bn2

    def shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1 and self.padded_channels == 0:
            return x
        sliced = x[:, :, :: self.stride, :: self.stride]
        return F.pad(sliced, (0, 0, 0, 0, self.padded_channels, self.padded_channels))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """[N, 3, 32, 32] normalized images -> [N, num_classes] logits; ``depth`` is 6 n + 2."""

    def __init__(self, depth: int, num_classes: int = 10) -> None:
        super().__init__()
        blocks, remainder = divmod(depth - 2, 6)
        if blocks < 1 or remainder:
            raise ValueError(f"depth of a CIFAR ResNet: got {depth}, expected 6 n + 2 (20, 32, 44, 56, ...)")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(in_channels, out_channels, stride)
        return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(torch.mean(x, dim=(2, 3)))
        return logits
