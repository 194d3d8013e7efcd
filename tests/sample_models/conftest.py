"""What the tests of the samples share."""

import os
from pathlib import Path

import pytest

_BESIDE_THE_REPOSITORY = Path(__file__).parents[2].parent / "shared"


@pytest.fixture
def checkpoints() -> Path:
    """The folder of public CIFAR ResNet checkpoints, which are not part of this project."""
    folder = Path(os.environ.get("KRONEXPORT_SHARED", _BESIDE_THE_REPOSITORY)) / "data" / "checkpoints"
    if not folder.is_dir():
        pytest.skip("no public checkpoints here: set KRONEXPORT_SHARED to the folder that holds data/checkpoints")
    return folder
