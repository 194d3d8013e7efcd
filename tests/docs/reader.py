"""Who follows a page: runs its commands and its Python one after the other, in a folder that has what it supposes."""

import os
import re
import runpy
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from tests.conftest import SHORT, command
from tests.docs.pages import Block

QUICK: Final[dict[str, tuple[str, ...]]] = {
    "build": (*SHORT, "--set", "time-budget=0.1s"),
    "plan": (*SHORT, "--set", "time-budget=0.1s"),
    "bench": ("--seconds", "0.05", "--rounds", "5"),
}
"""What a command gets in addition, so that it is soon done; what it prints and writes is the same."""

MODELS: Final = '''
import torch
from torch import nn


def net():
    """For images of any size."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, stride=8), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
'''
DATA: Final = """
import numpy as np


def accuracy(predict):
    return float(np.mean(predict(np.zeros((2, 3, 224, 224), np.float32))))
"""


@dataclass
class Reader:
    """In ``folder``, which is the current one while he reads.

    ``names`` are those of the page's Python, ``saved`` the files that it says to save.
    """

    folder: Path
    names: dict[str, Any] = field(default_factory=dict)
    saved: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        sys.path.insert(0, str(self.folder))  # as for a script there

    def follow(self, block: Block) -> None:
        """Do what a block says; AssertionError with its place, and what was printed, where that fails."""
        if block.mark.startswith("file: "):
            self.saved.append(self.folder / block.mark.removeprefix("file: "))
            self.saved[-1].write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, block.place, "exec"), self.names)  # noqa: S102  our own pages
        else:
            for words in block.commands:
                self._run(words, block)

    def _run(self, words: list[str], block: Block) -> None:
        program, *arguments = words
        if program == "cd":
            os.chdir(arguments[0])
        elif program == "kronexport":
            extra = QUICK.get(arguments[0], ())
            dry = ("--dry-run",) if block.mark.startswith("dry run: ") and arguments[0] == "build" else ()
            ended = command(*arguments, *extra, *dry)
            assert ended.code == 0, f"{block.place}: {words}: {ended.err}"
        elif program == "python" and (self.folder / arguments[0]) in self.saved:
            runpy.run_path(arguments[0], run_name="__main__")  # torch is loaded here already
        elif program == "python":
            done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{block.place}: {words}: {done.stderr}"
        else:
            raise AssertionError(f"{block.place}: {program}: no test runs it; say <!-- not run: REASON --> before it")


def furnish(folder: Path) -> None:
    """What the pages suppose: a package of the reader's with a network and an evaluator, weights, images."""
    package = folder / "my_pkg"
    package.mkdir()
    for name, text in (("__init__", ""), ("models", MODELS), ("data", DATA)):
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    made: dict[str, Any] = {}
    exec(MODELS, made)  # noqa: S102  the text above
    save_file(made["net"]().state_dict(), folder / "net.safetensors")
    (folder / "images").mkdir()
    pixels = np.random.default_rng(0).integers(256, size=(4, 32, 32, 3), dtype=np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(folder / "images" / f"{index}.png")


def supposed_names() -> dict[str, Any]:
    """What the Python of the pages takes for given: a model, its images and labels, a weight."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return {
        "model": nn.Sequential(*layers).eval(),
        "images": torch.randn(16, 3, 32, 32),
        "labels": torch.arange(16),
        "weight": np.random.default_rng(0).standard_normal((64, 64, 3, 3)).astype(np.float32),
    }


def uses_a_build(page_blocks: list[Block]) -> bool:
    """Whether what is followed reads bundles in ``dist/`` that an earlier build has left there."""
    followed = " ".join(block.text for block in page_blocks if block.is_followed)
    return re.search(r"\bdist/x86-", followed) is not None


def forget(folder: Path, modules: set[str], path: list[str]) -> None:
    """Take out of this process what was imported from ``folder``; ``modules`` and ``path`` are those from before."""
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and Path(file).is_relative_to(folder):
            del sys.modules[name]
