"""Each family of samples is exported and lowered for the opset of every target: few blocks, small images."""

from collections.abc import Callable, Mapping
from functools import partial

import onnx_ir as ir
import pytest
import torch
from torch import nn

from kronexport.backends.profile import list_targets
from kronexport.export.onnx_export import EXPORTER_OPSET, export_onnx
from kronexport.lower.lowering import lower
from kronexport.records import InputSpec
from sample_models.cifar_resnet import CifarResNet
from sample_models.edsr import EDSR
from sample_models.mobilenetv2 import MobileNetV2
from sample_models.resnet import Bottleneck, ResNet
from sample_models.seresnet import SEResNet50
from sample_models.srresnet import SRResNet
from sample_models.vgg import vgg11

OPSETS = sorted({min(profile.opset, EXPORTER_OPSET) for profile in list_targets()})
LEAST, MOST = OPSETS[0], OPSETS[-1]
"""On the way to the least one the model passes all between."""

ONE_EACH = (1, 1, 1, 1)


def short_seresnet() -> nn.Module:
    """With one block a stage."""
    model = SEResNet50()
    for name in ("layer1", "layer2", "layer3", "layer4"):
        stage = model.get_submodule(name)
        assert isinstance(stage, nn.Sequential)
        setattr(model, name, stage[:1])
    return model


FAMILIES: Mapping[str, tuple[Callable[[], nn.Module], int]] = {
    "cifar": (partial(CifarResNet, 8), 32),
    "bottleneck": (partial(ResNet, Bottleneck, ONE_EACH), 32),
    "mobilenetv2": (lambda: MobileNetV2().features[:5], 32),
    "seresnet": (short_seresnet, 32),
    "vgg": (lambda: vgg11().features, 32),
    "edsr": (partial(EDSR, 1, 8), 8),
    "srresnet": (partial(SRResNet, 1, 8), 8),
}
"""With the image size."""


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_reaches_every_opset(family: str) -> None:
    architecture, size = FAMILIES[family]
    with torch.device("meta"):
        model = architecture()
    model = model.to_empty(device="cpu").eval()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)
    exported = export_onnx(model, InputSpec("input", (1, 3, size, size)))
    for opset in (LEAST, MOST):
        lowered = lower(exported, {}, opset)
        assert lowered.opset_imports[""] == opset
        assert all(isinstance(node, ir.Node) and node.domain == "" for node in lowered.graph)
