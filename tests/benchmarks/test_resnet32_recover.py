"""The benchmark on a ResNet-8 with one factorized layer, and on images that ship with the project."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import resnet32_recover
from benchmarks.resnet32_recover import normalized, parsed, run, scorer_of, starting_point
from kronexport.export.factors_file import load_compressed, save_compressed
from kronexport.export.replace import factorized
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.recover.distil import predictor
from sample_models import cifar10
from sample_models.cifar_resnet import CifarResNet

STRUCTURE = {"layer3.0.conv2": gkpd_structure((8, 8, 1, 1), (8, 8, 3, 3), 2)}


def few(_folder: Path, split: str) -> cifar10.Images:
    """32 images: one batch."""
    images = cifar10.read_sample(split)
    return cifar10.Images(images.pixels[:32], images.labels[:32])


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two epochs of one step, from a fit that an earlier run made."""
    torch.manual_seed(0)
    dense = CifarResNet(8).eval()
    monkeypatch.setattr(resnet32_recover, "CifarResNet", lambda _depth: CifarResNet(8))
    monkeypatch.setattr(cifar10, "read_split", few)
    torch.save(dense.state_dict(), tmp_path / "weights.pt")
    fitted = factorized(dense, STRUCTURE, None, lambda _done, _total: None)
    (tmp_path / "out").mkdir()
    save_compressed(fitted, tmp_path / "out" / "start-gkpd-5.05.safetensors")
    paths = ["--weights", str(tmp_path / "weights.pt"), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    return [*paths, "--epochs", "2", "--threads", "1"]


def test_a_run_prints_its_curve_and_writes_the_network(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command again prints the same and trains nothing; the files score what the table says."""
    run(parsed(arguments))
    printed = capsys.readouterr().out.splitlines()
    run(parsed(arguments))
    assert capsys.readouterr().out.splitlines() == printed
    rows = [line.split(" | ") for line in printed if line.startswith("| ")]
    assert [row[0] for row in rows[2:]] == ["| dense", "| fitted", "| 1", "| 2"]
    network: nn.Module = load_compressed(CifarResNet(8), tmp_path / "out" / "factors.safetensors").eval()
    score = scorer_of(tmp_path).accuracy(predictor(network, torch.device("cpu")))
    assert f"{score:.2f}" == rows[-1][2]


def test_a_second_run_goes_on_from_what_the_first_wrote(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With BatchNorms as they are: their statistics do not move."""
    run(parsed(arguments))
    before = load_compressed(CifarResNet(8), tmp_path / "out" / "factors.safetensors")
    first = capsys.readouterr().out.splitlines()
    start, out = tmp_path / "out" / "factors.safetensors", tmp_path / "second"
    run(parsed([*arguments, "--start", str(start), "--norms", "freeze", "--out", str(out)]))
    title, *table = capsys.readouterr().out.splitlines()
    assert str(start) in title
    rows = [line.split(" | ") for line in table if line.startswith("| ")]
    assert [row[0] for row in rows[2:]] == ["| dense", "| start", "| 1", "| 2"]
    assert rows[3][2] == first[-1].split(" | ")[2]
    after = load_compressed(CifarResNet(8), out / "factors.safetensors").state_dict()
    for name, value in before.state_dict().items():
        assert torch.equal(value, after[name]) == ("running" in name or "tracked" in name), name


def test_a_start_of_another_method_or_ratio_is_not_taken(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, float]] = []

    def fit(model: nn.Module, method: str, ratio: float, _images: object) -> nn.Module:
        made.append((method, ratio))
        return factorized(model, STRUCTURE, None, lambda _done, _total: None)

    monkeypatch.setattr(resnet32_recover, "fitted", fit)
    monkeypatch.setattr(resnet32_recover, "calibration_images", lambda _folder: None)
    dense = CifarResNet(8).eval()
    for words in ([], ["--method", "tucker2"], ["--params-ratio", "4"], ["--params-ratio", "4"]):
        starting_point(dense, parsed([*arguments, *words]))
    assert made == [("tucker2", 5.05), ("gkpd", 4.0)]


def test_pixels_become_what_the_network_was_trained_on() -> None:
    pixels = cifar10.read_sample("train").pixels[:3]
    found = normalized(torch.device("cpu"))(torch.from_numpy(pixels))
    np.testing.assert_allclose(found.numpy(), cifar10.normalize(pixels), atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)
