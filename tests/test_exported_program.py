"""A .pt2 through the whole line: the layers of the model under their own names, its input, its weights."""

from pathlib import Path

import pytest
import torch

from kronexport.ship.report_json import read_report_json
from tests.conftest import SHORT, command
from tests.small_network import SHAPE, small


@pytest.mark.usefixtures("without_simplifier")
def test_a_program_is_built_as_a_model_is(tmp_path: Path) -> None:
    """For a device that is not there; config.toml builds it again from its folder."""
    torch.export.save(torch.export.export(small(32, 32), (torch.zeros(SHAPE),)), tmp_path / "net.pt2")
    (tmp_path / "build.toml").write_text('model = "net.pt2"\ntarget = ["jetson"]\n')
    ended = command("build", "--config", tmp_path / "build.toml", "--out", tmp_path / "out", *SHORT)
    assert ended.code == 0, ended.err
    target = read_report_json(tmp_path / "out" / "report.json").targets["jetson-orin-nano"]
    assert [layer.site for layer in target.layers] == ["0", "3"]
    assert any(layer.method != "dense" for layer in target.layers)
    assert all(check.passed is not False for check in target.verification)
