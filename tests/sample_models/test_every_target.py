"""Each family of samples is exported and lowered for the least and the greatest opset of all targets: few blocks."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from kronexport.backends.profile import list_targets
from kronexport.export.onnx_export import EXPORTER_OPSET, export_onnx
from kronexport.export.replace import with_networks
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.lower.lowering import lower
from kronexport.plan.rehearsal import noise_network
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
def test_every_family_reaches_the_least_and_the_greatest_opset(family: str) -> None:
    """Its first conv that is not depthwise factorized: as standard operators it gives what PyTorch gives."""
    architecture, size = FAMILIES[family]
    torch.manual_seed(0)
    model = architecture().eval()
    name, conv = next(
        (name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d) and layer.groups == 1
    )
    filters, channels, height, width = conv.weight.shape
    structure = gkpd_structure((filters, 1, 1, 1), (1, channels, height, width), 2)
    model = with_networks(model, {name: noise_network(structure)}).eval()
    exported = export_onnx(model, InputSpec("input", (1, 3, size, size)))
    image = torch.rand(1, 3, size, size)
    with torch.no_grad():
        wanted = model(image).numpy()
    for opset in (LEAST, MOST):
        lowered = lower(exported, {name: "grouped-2-1"}, opset)
        assert lowered.opset_imports[""] == opset
        assert all(node.domain == "" for node in lowered.graph)
        session = onnxruntime.InferenceSession(ir.to_proto(lowered).SerializeToString())
        (given,) = session.run(None, {"input": image.numpy()})
        assert np.linalg.norm(given - wanted) <= 1e-5 * np.linalg.norm(wanted)
