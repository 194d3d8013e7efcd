"""The chain of checks: each stage against the one before it, and simplification that can be taken back."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from kronexport.errors import VerificationError
from kronexport.export.module import KroneckerConv2d
from kronexport.export.onnx_export import export_onnx
from kronexport.export.operator import attach_functions
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.lower.lowering import lower
from kronexport.records import Check, InputSpec
from kronexport.verify import stages
from kronexport.verify.stages import VerifiedModel, uncompiled, verify_compiled, verify_stages

SPEC = InputSpec("image", (2, 4, 6, 6))
IMAGES = np.random.default_rng(0).standard_normal((4, 4, 6, 6)).astype(np.float32)
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Line:
    """A network in all its forms."""

    dense: nn.Module
    factorized: nn.Module
    portable: Path
    lowered: Path

    def verify(self) -> VerifiedModel:
        return verify_stages(
            self.dense, self.factorized, self.portable, self.lowered, IMAGES, batch=2, tolerance=TOLERANCE
        )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """A 3x3 conv, its factorized form, and both its ONNX files."""
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, padding=1)
    module = KroneckerConv2d.from_conv(conv, gkpd_structure((3, 2, 3, 1), (2, 2, 1, 3), 2), "0")
    model = export_onnx(nn.Sequential(module), SPEC)
    folder = tmp_path_factory.mktemp("line")
    ir.save(lower(model, {"0": "grouped-1-2"}, 18), folder / "lowered.onnx")
    attach_functions(model)
    ir.save(model, folder / "portable.onnx")
    return Line(nn.Sequential(conv), nn.Sequential(module), folder / "portable.onnx", folder / "lowered.onnx")


@pytest.fixture
def line(exported: Line, tmp_path: Path) -> Line:
    """The same with files of its own."""
    copies = [Path(shutil.copy(path, tmp_path)) for path in (exported.portable, exported.lowered)]
    return Line(exported.dense, exported.factorized, copies[0], copies[1])


@pytest.mark.usefixtures("simplifier")
def test_every_stage_is_checked_against_the_one_before(line: Line) -> None:
    """With the real simplifier: what ships computes what the file before it said, and its outputs are the golden."""
    verified = line.verify()
    assert [(check.stage, check.against, check.passed) for check in verified.checks] == [
        ("factorized", "dense", None),
        ("portable", "factorized", True),
        ("lowered", "portable", True),
        ("simplified", "lowered", True),
    ]
    approximation = verified.checks[0]
    assert approximation.tolerance is None
    assert approximation.rel_l2
    assert approximation.rel_l2 > TOLERANCE
    assert verified.notes == ()
    assert verified.path == line.lowered.with_name("model.onnx")
    with torch.no_grad():
        truth = line.factorized(torch.from_numpy(IMAGES)).numpy()
    (golden,) = verified.outputs.values()
    np.testing.assert_allclose(golden, truth, rtol=1e-4, atol=1e-5)


def test_without_a_simplifier_the_lowered_model_ships_with_a_note(line: Line) -> None:
    verified = line.verify()
    assert verified.path.read_bytes() == line.lowered.read_bytes()
    assert verified.checks[-1].rel_l2 == 0.0
    (note,) = verified.notes
    assert note.startswith("simplification left out: onnxsim is not installed")


def altered(source: Path, destination: Path, factor: float) -> None:
    """``source`` with its weights multiplied: valid, and another function."""
    model = ir.load(source)
    for value in model.graph.initializers.values():
        array = value.const_value.numpy() if value.const_value else np.zeros(0)
        if array.dtype == np.float32:
            value.const_value = ir.tensor(array * np.float32(factor), name=value.name)
    ir.save(model, destination)


def test_a_simplifier_that_changes_the_outputs_is_taken_back(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "simplify", lambda source, destination: altered(source, destination, 1.001))
    verified = line.verify()
    assert verified.path.read_bytes() == line.lowered.read_bytes()
    assert verified.checks[-1].passed is True
    assert "onnxsim changed the outputs by relative L2" in verified.notes[0]


def test_a_simplified_model_that_does_not_run_is_taken_back(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "simplify", lambda _source, destination: destination.write_bytes(b"no model"))
    verified = line.verify()
    assert verified.path.read_bytes() == line.lowered.read_bytes()
    assert "the runtime cannot load this model" in verified.notes[0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("portable", "portable: outputs differ from factorized's by relative L2"),
        ("lowered", "lowered: outputs differ from portable's by relative L2"),
    ],
)
def test_a_stage_that_computes_something_else_stops_the_line(wrong: str, message: str, line: Line) -> None:
    """It is named, with both figures and the tolerance."""
    path = getattr(line, wrong)
    altered(path, path, 1.001)
    with pytest.raises(VerificationError, match=rf"{message} .*tolerance 1e-05; nothing was shipped"):
        line.verify()


class Engine:
    """A runner that gives what it was told."""

    def __init__(self, outputs: Mapping[str, NDArray[Any]]) -> None:
        self.outputs = outputs

    def infer(self, feeds: Mapping[str, NDArray[Any]], most: int | None = None) -> dict[str, NDArray[Any]]:
        assert most is None
        assert list(feeds) == ["image"]
        return dict(self.outputs)


def simplified(folder: Path) -> VerifiedModel:
    """A model that passed its last check."""
    check = Check("simplified", "lowered", 0.0, 0.0, TOLERANCE, passed=True)
    return VerifiedModel(folder / "model.onnx", {"y": np.ones((4, 2))}, (check,), ())


def test_an_engine_is_checked_against_the_simplified_model(tmp_path: Path) -> None:
    model = simplified(tmp_path)
    check = verify_compiled(Engine({"y": np.full((4, 2), 1 + 1e-7)}), SPEC, IMAGES, model, TOLERANCE)
    assert (check.stage, check.against, check.passed) == ("compiled", "simplified", True)
    with pytest.raises(VerificationError, match="compiled: outputs differ from simplified's"):
        verify_compiled(Engine({"y": np.full((4, 2), 1.001)}), SPEC, IMAGES, model, TOLERANCE)


def test_an_engine_for_elsewhere_is_not_called_checked(tmp_path: Path) -> None:
    assert uncompiled(simplified(tmp_path)) == Check("compiled", "simplified", None, None, None, None)
