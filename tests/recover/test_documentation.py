"""What docs/recover.md says."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kronexport.recover.recipe import Recipe

PAGE = (Path(__file__).parents[2] / "docs" / "recover.md").read_text(encoding="utf-8")


def test_the_python_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    names: dict[str, Any] = {"model": nn.Sequential(*layers).eval(), "images": torch.randn(16, 3, 32, 32)}
    names["labels"] = torch.arange(16)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(example, names)  # noqa: S102  our own page
    assert len(names["done"].epochs) == 2
    assert (tmp_path / "run.pt").is_file()


def test_the_page_names_only_fields_that_there_are() -> None:
    named = set(re.findall(r"`(\w+)=", PAGE)) - {"weights_only"}
    assert named
    assert named <= {field.name for field in fields(Recipe)}
