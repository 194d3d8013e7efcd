"""All that a user names, looked at once; a sample brings what is not given."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kronexport.errors import UserInputError
from kronexport.survey.model import load_model
from kronexport.survey.project import GOLDEN_BATCHES, Project, load_project

NETWORK = """
from torch import nn
def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4))
def score(predict):
    return 1.0
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "network.py").write_text(NETWORK, encoding="utf-8")
    return tmp_path / "network.py"


def load(model: str, **given: Any) -> Project:
    options: dict[str, Any] = dict.fromkeys(("input_text", "calibration", "mean", "std", "evaluate"))
    loaded = load_model(model, given.pop("weights", None))
    return load_project(loaded, **{**options, "include": (), "exclude": (), "fixed": (), **given})


def test_a_users_model_needs_its_input(file: Path) -> None:
    with pytest.raises(UserInputError, match="its input is not known; give --input, for example 1x3x224x224"):
        load(f"{file}:net")


def test_without_images_golden_data_are_seeded_noise(file: Path) -> None:
    """The same each time, a whole number of batches."""
    first, second = (load(f"{file}:net", input_text="image=2x3x8x9") for _ in range(2))
    assert first.calibration is None
    assert first.golden.shape == (GOLDEN_BATCHES * 2, 3, 8, 9)
    assert first.golden.dtype == np.float32
    np.testing.assert_array_equal(first.golden, second.golden)
    assert first.input.name == "image"
    assert first.survey.skipped[0].site == "2"


@pytest.mark.parametrize("count", [3, 50])
def test_golden_data_are_the_first_images(file: Path, tmp_path: Path, count: int) -> None:
    """Repeated if there are too few."""
    images = np.random.default_rng(0).standard_normal((count, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    project = load(f"{file}:net", input_text="1x3x8x8", calibration=str(tmp_path / "images.npy"))
    assert project.calibration is not None
    np.testing.assert_array_equal(project.calibration, images)
    np.testing.assert_array_equal(project.golden, images[np.arange(GOLDEN_BATCHES) % count])


def test_mean_without_images_is_refused(file: Path) -> None:
    with pytest.raises(UserInputError, match="--mean and --std are for a folder of images"):
        load(f"{file}:net", input_text="1x3x8x8", mean=(0.5, 0.5, 0.5))


def test_without_an_evaluator_the_reason_is_kept(file: Path) -> None:
    project = load(f"{file}:net", input_text="1x3x8x8")
    assert (project.evaluate, project.unevaluated) == (None, "no --evaluate was given")


def test_a_users_evaluator_is_taken(file: Path) -> None:
    project = load(f"{file}:net", input_text="1x3x8x8", evaluate=f"{file}:score")
    assert project.evaluate is not None
    assert project.evaluate(lambda images: images) == 1.0
    assert project.unevaluated == ""


def test_a_sample_brings_input_and_images() -> None:
    """Its evaluator only if it is trained: seeded weights have nothing to score."""
    project = load("sample:resnet32")
    assert project.input.shape == (1, 3, 32, 32)
    assert project.calibration is not None
    assert project.golden.shape == (GOLDEN_BATCHES, 3, 32, 32)
    assert (project.evaluate is None) == bool(project.unevaluated)


def test_an_exported_program_brings_its_input(tmp_path: Path) -> None:
    """Another one is refused; what the program leaves open is asked for."""
    model, example = nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), (torch.ones(2, 3, 8, 8),)
    torch.export.save(torch.export.export(model, example), tmp_path / "fixed.pt2")
    height = {"input": {2: torch.export.Dim("height", min=4)}}
    torch.export.save(torch.export.export(model, example, dynamic_shapes=height), tmp_path / "open.pt2")
    assert load(f"{tmp_path}/fixed.pt2").input.shape == (2, 3, 8, 8)
    with pytest.raises(UserInputError, match="--input 1x3x8x8: got 1x3x8x8, but the program was exported for 2x3x8x8"):
        load(f"{tmp_path}/fixed.pt2", input_text="1x3x8x8")
    with pytest.raises(UserInputError, match="its input is not known; give --input"):
        load(f"{tmp_path}/open.pt2")
    assert load(f"{tmp_path}/open.pt2", input_text="2x3x16x8").survey.sites[0].input_size == (16, 8)


def test_a_samples_images_are_left_out_at_another_size() -> None:
    """Those of its evaluator as well."""
    project = load("sample:resnet20", input_text="1x3x40x40")
    assert (project.calibration, project.evaluate) == (None, None)
    assert "of another size than --input" in project.unevaluated
    assert load("sample:resnet20").evaluate is not None
