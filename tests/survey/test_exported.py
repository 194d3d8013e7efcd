"""A .pt2: its convolutions stand where they were in the model, and it computes what the model did."""

import copy
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # PyTorch's own name for it
from torch import Tensor, nn

from kronexport.errors import UserInputError
from kronexport.export.onnx_export import export_onnx
from kronexport.export.replace import factorized
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.records import InputSpec
from kronexport.survey.exported import load_exported
from kronexport.survey.sites import survey

SHAPE = (2, 8, 12, 12)


class Block(nn.Module):
    """Convs of every geometry, one called twice, BatchNorm, a functional conv, a Linear and a list of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.dilated = nn.Conv2d(16, 16, (3, 5), padding=(2, 4), dilation=2, groups=4)
        self.same = nn.Conv2d(16, 16, (3, 5), padding="same")
        self.twice = nn.Conv2d(16, 16, 1)
        self.kernel = nn.Parameter(torch.randn(16, 16, 1, 1))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.dilated(self.stem(x)))
        x = self.twice(F.relu(self.twice(self.same(x))))
        x = F.conv2d(x, self.kernel) + x
        return self.head(x.mean(dim=(2, 3))), x


def seeded(model: nn.Module) -> nn.Module:
    """In eval mode, with statistics that a BatchNorm shows."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            nn.init.normal_(part.running_mean)
    return model.eval()


def saved(path: Path, model: nn.Module, *inputs: Tensor, **options: Any) -> Path:
    torch.export.save(torch.export.export(model, inputs or (torch.randn(SHAPE),), **options), path)
    return path


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    model = seeded(Block())
    return model, saved(tmp_path_factory.mktemp("pt2") / "block.pt2", model)


def test_layers_stand_under_their_own_names(block: tuple[nn.Module, Path]) -> None:
    """With the geometry that they had; what belongs to no layer stays a function."""
    model, path = block
    module = load_exported(path).module
    for name in ("stem.0", "dilated", "same", "twice", "head"):
        own, found = model.get_submodule(name), module.get_submodule(name)
        assert type(found) is type(own)
        assert found.extra_repr() == own.extra_repr()
    names = {name for name, part in module.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}
    assert names == {"stem.0", "dilated", "same", "twice", "head"}
    assert sum(parameter.numel() for parameter in module.parameters()) == sum(p.numel() for p in model.parameters())


def test_it_computes_the_very_same(block: tuple[nn.Module, Path]) -> None:
    """As does a copy of it."""
    model, path = block
    exported = load_exported(path)
    images = torch.randn(exported.input_shape)  # type: ignore[arg-type]  # all sizes are known
    with torch.no_grad():
        for module in (exported.module, copy.deepcopy(exported.module)):
            for found, expected in zip(module(images), model(images), strict=True):
                torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_it_is_surveyed_as_the_model_is(block: tuple[nn.Module, Path]) -> None:
    """Sites with BatchNorm and activation behind them, and the reasons of those that are none."""
    model, path = block
    spec = InputSpec("input", SHAPE)
    found, expected = (survey(one, spec, ("*",)) for one in (load_exported(path).module, model))
    assert found == expected
    assert {entry.site for entry in found.skipped} >= {"twice", "(model)"}


@pytest.mark.filterwarnings("ignore")  # of the exporter about itself
def test_it_is_factorized_and_exported_as_the_model_is(block: tuple[nn.Module, Path]) -> None:
    model, path = block
    structures = {"stem.0": gkpd_structure((4, 2, 3, 1), (4, 4, 1, 3), 2)}
    compressed = factorized(load_exported(path).module, structures, None, lambda *_: None)
    expected = factorized(model, structures, None, lambda *_: None)
    images = torch.randn(SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(compressed(images), expected(images), rtol=0, atol=1e-6)
    graphs = [export_onnx(one, InputSpec("input", SHAPE)).graph for one in (compressed, expected)]
    kinds = [sorted(node.op_type for node in graph) for graph in graphs]
    assert kinds[0] == kinds[1]
    assert kinds[0].count("KroneckerConv") == 1


@pytest.mark.filterwarnings("ignore")  # of torch about itself
def test_a_decomposed_program_has_its_convolutions(tmp_path: Path) -> None:
    """``aten.convolution``, which is what conv2d becomes."""
    model = nn.Sequential(nn.Conv2d(8, 4, 3, stride=2), nn.ReLU()).eval()
    program = torch.export.export(model, (torch.randn(SHAPE),)).run_decompositions()
    torch.export.save(program, tmp_path / "n.pt2")
    module = load_exported(tmp_path / "n.pt2").module
    assert isinstance(module.get_submodule("0"), nn.Conv2d)
    images = torch.randn(SHAPE)
    torch.testing.assert_close(module(images), model(images), rtol=0, atol=0)


def test_a_weight_that_two_layers_share_stays_one(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1))
    model[2].weight = model[0].weight
    module = load_exported(saved(tmp_path / "n.pt2", model.eval())).module
    images = torch.randn(SHAPE)
    torch.testing.assert_close(module(images), model(images), rtol=0, atol=0)
    assert sum(parameter.numel() for parameter in module.parameters()) == sum(p.numel() for p in model.parameters())


def test_sizes_that_are_left_open_are_told(tmp_path: Path) -> None:
    height = {"input": {2: torch.export.Dim("height", min=4, max=64)}}
    path = saved(tmp_path / "n.pt2", nn.Sequential(nn.Conv2d(8, 4, 3)).eval(), dynamic_shapes=height)
    exported = load_exported(path)
    assert exported.input_shape == (2, 8, None, 12)
    assert exported.module(torch.randn(2, 8, 20, 12)).shape == (2, 4, 18, 10)


def refusal(path: Path) -> str:
    with pytest.raises(UserInputError) as caught:
        load_exported(path)
    return str(caught.value)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    assert "there is no such file" in refusal(tmp_path / "n.pt2")
    (tmp_path / "n.pt2").write_bytes(b"not a zip")
    assert "cannot be read as an exported program" in refusal(tmp_path / "n.pt2")
    torch.save({"weight": torch.ones(1)}, tmp_path / "n.pt2")
    assert "no archive of torch.export" in refusal(tmp_path / "n.pt2")


@pytest.mark.parametrize("part", [0.3, 0.6, 0.999])
def test_a_file_that_was_cut_off(tmp_path: Path, block: tuple[nn.Module, Path], part: float) -> None:
    content = block[1].read_bytes()
    (tmp_path / "n.pt2").write_bytes(content[: int(part * len(content))])
    assert "write it again with torch.export.save" in refusal(tmp_path / "n.pt2")


def test_a_file_with_a_byte_that_is_not_as_it_was(tmp_path: Path, block: tuple[nn.Module, Path]) -> None:
    content = bytearray(block[1].read_bytes())
    with zipfile.ZipFile(block[1]) as archive:
        weight = max(archive.infolist(), key=lambda entry: entry.file_size)
    content[weight.header_offset + 200] ^= 0xFF
    (tmp_path / "n.pt2").write_bytes(content)
    assert "is damaged" in refusal(tmp_path / "n.pt2")


class Trap:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("sprung"),)


def rewritten(source: Path, target: Path, name: str, content: bytes) -> Path:
    """A copy of the archive whose entries that end in ``name`` hold ``content``; one is added where none does."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        names = old.namelist()
        for entry in names:
            new.writestr(entry, content if entry.endswith(name) else old.read(entry))
        if not any(entry.endswith(name) for entry in names):
            new.writestr(f"{names[0].partition('/')[0]}/{name}", content)
    return target


def test_no_code_of_the_file_is_run(
    tmp_path: Path, block: tuple[nn.Module, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trap = pickle.dumps(Trap())
    hostile = rewritten(block[1], tmp_path / "a.pt2", "data/constants/opaque_obj_0", trap)
    assert "is refused: it holds Python objects" in refusal(hostile)
    torch.save(Trap(), tmp_path / "trap.pt")
    inputs = rewritten(block[1], tmp_path / "b.pt2", "sample_inputs/model.pt", (tmp_path / "trap.pt").read_bytes())
    assert "cannot be read as an exported program" in refusal(inputs)
    assert not (tmp_path / "sprung").exists()


def test_a_program_in_training_mode(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4), nn.Dropout()).train()
    message = refusal(saved(tmp_path / "n.pt2", model))
    assert "was exported in training mode" in message
    assert "after model.eval()" in message


class TwoInputs(nn.Module):
    """Of images and something else."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


def test_a_program_of_two_inputs(tmp_path: Path) -> None:
    message = refusal(saved(tmp_path / "n.pt2", TwoInputs(), torch.ones(1), torch.ones(1)))
    assert "takes 2 inputs (x, y); expected one float tensor" in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_program_of_another_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(8, 4, 1)).eval().to(dtype)
    message = refusal(saved(tmp_path / "n.pt2", model, torch.ones(SHAPE, dtype=dtype)))
    assert f"takes input of {dtype}; expected torch.float32; export model.float()" in message


class Casting(nn.Module):
    """A conv around which precision changes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x.to(torch.float64).to(self.conv.weight.dtype))
        return found.double()


def test_what_a_program_asserts_of_its_casts_is_left_out(tmp_path: Path) -> None:
    """The type and the device that a tensor had at the export."""
    model = Casting().eval()
    path = saved(tmp_path / "n.pt2", model)
    assert "_assert_tensor_metadata" in str(torch.export.load(path).graph)
    module = load_exported(path).module
    assert "_assert_tensor_metadata" not in str(module.graph)
    images = torch.randn(SHAPE)
    torch.testing.assert_close(module(images), model(images), rtol=0, atol=0)


def test_a_program_without_a_conv_is_refused_by_the_survey(tmp_path: Path) -> None:
    module = load_exported(saved(tmp_path / "n.pt2", nn.Sequential(nn.ReLU()).eval())).module
    with pytest.raises(UserInputError, match="no convolution to factorize"):
        survey(module, InputSpec("input", SHAPE))
