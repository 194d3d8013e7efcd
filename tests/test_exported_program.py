"""A .pt2 as MODEL on the command line: the layers of the model under their own names, and its input."""

import json
from pathlib import Path

import torch

from tests.conftest import command
from tests.small_network import SHAPE, small


def test_a_program_is_planned_as_a_model_is(tmp_path: Path) -> None:
    """A relative path is that of the folder of the configuration; --input is the program's own."""
    torch.export.save(torch.export.export(small(32, 32), (torch.zeros(SHAPE),)), tmp_path / "net.pt2")
    (tmp_path / "build.toml").write_text('model = "net.pt2"\ntarget = ["jetson"]\n')
    ended = command("plan", "--config", tmp_path / "build.toml", "--json")
    assert ended.code == 0, ended.err
    sites = json.loads(ended.out)["targets"]["jetson-orin-nano"]
    assert [site["site"] for site in sites] == ["0", "3"]
    assert any(site["structure"] is not None for site in sites)
