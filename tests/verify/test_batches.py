"""Each size of a dynamic batch is compared, and the one that is wrong is named."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from kronexport import agent
from kronexport.backends.base import SessionRunner
from kronexport.errors import VerificationError
from kronexport.lower.dynamic_batch import with_dynamic_batch
from kronexport.records import BatchRange, InputSpec
from kronexport.verify.batches import verify_engine, verify_lowered
from kronexport.verify.outputs import run_onnx
from tests.lower.small_graphs import floats, graph

BATCHES = BatchRange(1, 2, 5)
SPEC = InputSpec("x", (2, 4, 3, 3))
IMAGES = floats(4, 4, 3, 3)
WEIGHT = floats(6, 4, 1, 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A pointwise Conv for any batch."""
    models = [graph(f"float[{n},4,3,3] x => float[{n},6,3,3] y", "y = Conv(x, w)", {"w": WEIGHT}) for n in (2, 3)]
    ir.save(with_dynamic_batch(*models), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


class Pointwise(nn.Module):
    """The same Conv; ``spoilt`` samples at once are answered wrongly."""

    def __init__(self, spoilt: int = 0) -> None:
        super().__init__()
        self.spoilt = spoilt

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, torch.from_numpy(WEIGHT)) + float(len(x) == self.spoilt)


def test_a_lowered_file_is_compared_at_each_size(path: Path) -> None:
    """Also at more samples than there are images."""
    verify_lowered(BATCHES, Pointwise(), path, IMAGES, 1e-5)
    for size in BATCHES.sizes:
        with pytest.raises(VerificationError, match=rf"lowered: outputs differ from factorized \(batch of {size}\)'s"):
            verify_lowered(BATCHES, Pointwise(size), path, IMAGES, 1e-5)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_engine_is_compared_at_each_size(runtime: str, path: Path) -> None:
    golden = run_onnx(path, IMAGES)
    runner = SessionRunner(agent.open_session(runtime, str(path), 1), path)
    verify_engine(BATCHES, runner, spec=SPEC, images=IMAGES, outputs=golden, tolerance=1e-5)
    others = {name: output + np.float32(1) for name, output in golden.items()}
    with pytest.raises(VerificationError, match=r"compiled: outputs differ from golden \(batch of 1\)'s"):
        verify_engine(BATCHES, runner, spec=SPEC, images=IMAGES, outputs=others, tolerance=1e-5)


@pytest.mark.parametrize(("text", "sizes"), [("1:2:5", (1, 2, 5)), ("4:4:4", (4,)), ("1:1:8", (1, 8))])
def test_each_size_counts_once(text: str, sizes: tuple[int, ...]) -> None:
    assert BatchRange.parse(text).sizes == sizes
