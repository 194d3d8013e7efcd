"""SE-ResNet-50 (Hu et al., CVPR 2018): a ResNet-50 whose blocks weigh their channels by squeeze and excitation.

State-dict keys are those of Cadene's public weights: ``layer0.{conv1, bn1}``, ``layer{1..4}.{i}.{conv1..3, bn1..3,
se_module.{fc1,fc2}, downsample.{0,1}}``, ``last_linear``. As there, a block's stride is in its first 1x1 conv and
the max-pool rounds up.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F  # PyTorch's own name for it
from torch import Tensor, nn

from sample_models.resnet import Block, stage

_REDUCTION = 16


class SqueezeExcitation(nn.Module):
    """One weight in 0..1 a channel, from the channel means: [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // _REDUCTION, 1)
        self.fc2 = nn.Conv2d(channels // _REDUCTION, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = F.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True)))
        return x * torch.sigmoid(self.fc2(squeezed))


class SqueezeExcitationBottleneck(Block):
    """1x1 (strided) down to ``width`` channels, 3x3, 1x1 up to four times as many, excitation."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__(in_channels, width, stride)
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.se_module = SqueezeExcitation(out_channels)

    @property
    def branch_end(self) -> nn.BatchNorm2d:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.se_module(self.bn3(self.conv3(out)))
        return F.relu(out + self.shortcut(x))


class SEResNet50(nn.Module):
    """[N, 3, 224, 224] normalized images -> [N, num_classes] logits; 28,088,024 parameters at 1,000 classes."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.layer0 = nn.Sequential(
            OrderedDict[str, nn.Module](
                conv1=nn.Conv2d(3, 64, 7, 2, padding=3, bias=False),
                bn1=nn.BatchNorm2d(64),
                relu1=nn.ReLU(),
                pool=nn.MaxPool2d(3, 2, ceil_mode=True),
            )
        )
        self.layer1 = stage(SqueezeExcitationBottleneck, 64, 64, 3, 1)
        self.layer2 = stage(SqueezeExcitationBottleneck, 256, 128, 4, 2)
        self.layer3 = stage(SqueezeExcitationBottleneck, 512, 256, 6, 2)
        self.layer4 = stage(SqueezeExcitationBottleneck, 1024, 512, 3, 2)
        self.last_linear = nn.Linear(2048, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.layer0(x)))))
        logits: Tensor = self.last_linear(x.mean(dim=(2, 3)))
        return logits
