"""What the README tells a reader to type is understood by the program."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kronexport.export.replace import kronecker_modules
from sample_models.registry import SAMPLES
from tests.conftest import command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def code_lines() -> list[str]:
    """Lines of the code blocks, continued ones joined, comments off."""
    text = README.replace("\\\n", " ")
    lines = [match.strip() for match in re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)]
    lines += [line for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return [re.sub(r"\s+#.*", "", line) for line in lines]


COMMANDS = [line for line in code_lines() if line.startswith("kronexport ")]
INLINE = list(re.findall(r"`(kronexport [^`]+)`", README))
MAKE = [line.split()[1] for line in code_lines() if line.startswith("make ")]


def test_there_is_something_to_check() -> None:
    """Lest a change of layout empty the lists below."""
    assert COMMANDS
    assert len(INLINE) >= 5
    assert MAKE


@pytest.mark.parametrize("line", [*COMMANDS, *INLINE])
def test_a_command_of_the_readme_is_understood(line: str) -> None:
    """The parser refuses what it does not know before it answers ``--help``, so an answer means that it knows all."""
    _, *arguments = shlex.split(line)
    ended = command(*arguments, "--help")
    assert ended.code == 0, ended.err
    assert "Usage" in ended.out


def test_an_unknown_flag_would_be_seen() -> None:
    """The test above relies on it."""
    assert command("build", "net:net", "--no-such-flag", "--help").code == 2


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its order, on a model and images as it supposes them, and with what it says of them."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval()
    images = torch.randn(8, 3, 32, 32)
    names: dict[str, Any] = {"model": model, "images": images}
    first, second = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(first, names)  # noqa: S102  our own README
    with torch.no_grad():
        assert torch.equal(names["again"](images), names["compressed"].model(images))
    assert names["compressed"].params <= 0.6 * names["compressed"].dense_params
    exec(second, names)  # noqa: S102  our own README
    assert list(kronecker_modules(names["compressed"].model)) == ["0"]


@pytest.mark.parametrize("target", MAKE)
def test_a_make_target_of_the_readme_exists(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(((?!http)[^)#]+)", README))))
def test_a_link_of_the_readme_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_the_readme_names_every_sample() -> None:
    paragraph = next(part for part in README.split("\n\n") if part.startswith("Samples:"))
    named = re.findall(r"[a-z]+\d+|mobilenetv2|srresnet", " ".join(re.findall(r"`([^`]+)`", paragraph)))
    assert sorted(named) == sorted(SAMPLES)
