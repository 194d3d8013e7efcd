"""VGG-11 without and with BatchNorm (Simonyan and Zisserman, ICLR 2015, table 1, column A).

State-dict keys are torchvision's: ``features.{i}``, ``classifier.{0,3,6}``.
"""

from collections.abc import Callable

from torch import Tensor, nn

# Output channels of the convs of each stage; a 2x2 max-pool ends a stage.
_STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))


def _conv_relu(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU()]


def _conv_norm_relu(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU()]


class VGG11(nn.Module):
    """[N, 3, 224, 224] normalized images -> [N, num_classes] logits; ``unit`` makes a conv and what follows it."""

    def __init__(self, unit: Callable[[int, int], list[nn.Module]], num_classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for widths in _STAGES:
            for width in widths:
                layers += unit(channels, width)
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        logits: Tensor = self.classifier(x.flatten(1))
        return logits


def vgg11() -> VGG11:
    """132,863,336 parameters."""
    return VGG11(_conv_relu)


def vgg11_bn() -> VGG11:
    """132,868,840 parameters."""
    return VGG11(_conv_norm_relu)
