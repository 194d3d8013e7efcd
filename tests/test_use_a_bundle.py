"""docs/use-a-bundle.md can be copied: every Python block and command runs on a bundle that was built."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Built

PAGE = (Path(__file__).parents[1] / "docs" / "use-a-bundle.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"## ([^\n]+)\n(?:(?!\n## ).)*?```python\n(.*?)```", PAGE, re.DOTALL)

COMPARED = """
golden = np.load(f"{bundle}/golden.npz")
expected = {name: golden[f"output:{name}"][: len(image)] for name in outputs}
assert {f"output:{name}" for name in outputs} == {name for name in golden.files if name.startswith("output:")}
for name, values in outputs.items():
    assert np.linalg.norm(values - expected[name]) <= 1e-5 * np.linalg.norm(expected[name]), name
"""
"""What follows a block: its outputs are the golden ones, for its image is made the golden one."""


def test_there_is_a_block_for_each_way() -> None:
    assert [title for title, _ in BLOCKS] == [
        "Python, any runtime",
        "Python with ONNX Runtime alone",
        "Python with OpenVINO alone",
    ]


@pytest.mark.parametrize("title", [title for title, _ in BLOCKS])
def test_a_block_computes_the_golden_outputs(title: str, built: Built, tmp_path: Path) -> None:
    """In a process and a folder of its own, with its zeros replaced by an image whose outputs are known."""
    shutil.copytree(built.folder, tmp_path / "dist")
    block = dict(BLOCKS)[title]
    zeros = 'image = np.zeros(manifest["input"]["shape"], manifest["input"]["dtype"])'
    assert zeros in block
    known = 'image = np.load(f"{bundle}/golden.npz")["input:" + manifest["input"]["name"]]'
    script = block.replace(zeros, f'{known}[: manifest["input"]["shape"][0]]') + COMPARED
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_commands_of_run_py_work_as_they_stand(built: Built, tmp_path: Path) -> None:
    """From the folder that holds the output, one after the other, on images that are the golden ones."""
    bundle = shutil.copytree(built.folder, tmp_path / "dist") / "x86-onnxruntime"
    with np.load(bundle / "golden.npz") as archive:
        golden = {key.partition(":")[2]: archive[key] for key in archive.files}
        np.save(tmp_path / "images.npy", next(archive[key] for key in archive.files if key.startswith("input:")))
    commands = re.findall(r"^python (.*run\.py .*)$", PAGE, re.MULTILINE)
    assert [shlex.split(line)[1] for line in commands] == ["check", "infer"]
    for line in commands:
        done = subprocess.run(
            [sys.executable, *shlex.split(line)], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "answers.npz") as answers:
        for name, values in answers.items():
            assert np.linalg.norm(values - golden[name]) <= 1e-5 * np.linalg.norm(golden[name]), name


def test_the_readme_leads_here() -> None:
    assert "docs/use-a-bundle.md" in (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
