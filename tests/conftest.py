"""One small network, built once for every target; tests read the output, and copy it before they change it."""

import contextlib
import functools
import importlib.util
import io
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings
from onnxscript._framework_apis import torch_2_5

from kronexport.cli import run
from kronexport.lower import simplify

settings.register_profile("kronexport", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("kronexport")

BLOCKS = """
from torch import nn


def unit(channels, filters, kernel, **options):
    return nn.Sequential(nn.Conv2d(channels, filters, kernel, **options), nn.BatchNorm2d(filters), nn.ReLU())
"""

NETWORK = '''
import torch
from torch import nn

from .blocks import unit


def net():
    """Bias, BatchNorm, stride, padding="same" of an even kernel, groups, channels that are no powers of two."""
    print("a factory that talks")
    torch.manual_seed(0)
    return nn.Sequential(
        unit(3, 6, 3, padding=1),
        unit(6, 10, 4, padding="same", bias=False),
        nn.Sequential(nn.Conv2d(10, 10, 3, groups=5, padding=1), nn.Conv2d(10, 10, 3, groups=10, padding=1)),
        unit(10, 15, 3, stride=2, padding=(1, 0)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(15, 4),
    )
'''

INPUT = "1x3x64x64"
"""Large enough for factorizing to pay by every target's roofline."""

TARGETS = ("x86-onnxruntime", "x86-openvino", "jetson-orin-nano")
SHORT = ("--set", "measure.seconds=0.05", "--set", "measure.rounds=5", "--set", "measure.warmup_seconds=0")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Built:
    """An output that holds all three targets, and how the command ended that wrote it."""

    folder: Path
    ended: Ended


def command(*arguments: object) -> Ended:
    """Run one command line in this process; torch's notes on padding and nothing else are let be."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using padding='same'")
        code = run([str(argument) for argument in arguments])
    return Ended(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache of all tests: the user's own is neither read nor written."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KRONEXPORT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's file in a folder of its own, with a relative import; its factory is ``net``."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "blocks.py").write_text(BLOCKS, encoding="utf-8")
    (folder / "network.py").write_text(NETWORK, encoding="utf-8")
    return folder / "network.py"


@pytest.fixture(scope="session")
def built(network: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The network for all targets with the default goal and ``--json``, simplified; only to be read."""
    folder = tmp_path_factory.mktemp("built") / "out"
    targets = ("--target", "cpu", "--target", "openvino", "--target", "jetson")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simplify, "importlib", importlib)
        ended = command("build", f"{network}:net", "--input", INPUT, *targets, "--out", folder, "--json", *SHORT)
    return Built(folder, ended)


@pytest.fixture
def built_copy(built: Built, tmp_path: Path) -> Path:
    """A copy of the built output to tamper with."""
    return shutil.copytree(built.folder, tmp_path / "copy")


@pytest.fixture(scope="session", autouse=True)
def no_simplifier() -> Iterator[None]:
    """As if onnxsim were not installed, but where a test asks for it: its process takes seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simplify, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda _name: None)))
        yield


@pytest.fixture
def simplifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are simplified where onnxsim is installed, as in a user's build."""
    monkeypatch.setattr(simplify, "importlib", importlib)


@pytest.fixture(scope="session", autouse=True)
def one_registry() -> Iterator[None]:
    """Torch puts its table of ONNX functions together anew for each export, which takes it two seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_2_5, "get_torchlib_ops", functools.cache(torch_2_5.get_torchlib_ops))
        yield
