"""MobileNetV2 of width 1 (Sandler et al., CVPR 2018, table 2).

State-dict keys are torchvision's: ``features.0.{0,1}``, ``features.{i}.conv.*``, ``features.18.{0,1}``,
``classifier.1``.
"""

from typing import cast

from torch import Tensor, nn

# Expansion factor, output channels, repeats, stride of the first (the paper's t, c, n, s).
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _conv_norm_relu6(in_channels: int, out_channels: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU6())


class InvertedBottleneck(nn.Module):
    """Expand (1x1), filter (depthwise 3x3), project (1x1, linear): [N, C, H, W] -> [N, F, H/stride, W/stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        expand = [] if expansion == 1 else [_conv_norm_relu6(in_channels, hidden, 1, 1)]
        self.conv = nn.Sequential(
            *expand,
            _conv_norm_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class ResidualInvertedBottleneck(InvertedBottleneck):
    """An inverted bottleneck that keeps the shape and adds its input."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__(channels, channels, 1, expansion)

    @property
    def branch_end(self) -> nn.BatchNorm2d:
        return cast("nn.BatchNorm2d", self.conv[-1])

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class MobileNetV2(nn.Module):
    """[N, 3, 224, 224] normalized images -> [N, num_classes] logits; 3,504,872 parameters at 1,000 classes."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        channels = 32
        layers: list[nn.Module] = [_conv_norm_relu6(3, channels, 3, 2)]
        for expansion, out_channels, repeats, stride in _STAGES:
            layers.append(InvertedBottleneck(channels, out_channels, stride, expansion))
            layers.extend(ResidualInvertedBottleneck(out_channels, expansion) for _ in range(repeats - 1))
            channels = out_channels
        layers.append(_conv_norm_relu6(channels, 1280, 1, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits
