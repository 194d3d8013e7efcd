"""What README.md and docs/ tell a reader to type works: every block is followed, or says before it why not."""

import importlib.util
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kronexport.backends.profile import list_targets
from kronexport.export.replace import kronecker_modules
from kronexport.plan.plan_file import read_plan_file
from tests.conftest import Built, command
from tests.docs import reader
from tests.docs.pages import (
    FOLLOWED,
    MARKS,
    RECORDS,
    ROOT,
    SHOWN,
    Block,
    blocks,
    loose_commands,
    own_commands,
    pages,
    text_of,
)

TUTORIAL = "docs/tutorial.md"
SHARED_FLAGS = re.findall(r'"(--[a-z-]+)"', text_of("benchmarks/timed.py"))
"""Of every benchmark that times models."""

Names = dict[str, Any]


def after_the_readme(names: Names, _folder: Path) -> None:
    images = names["images"]
    with torch.no_grad():
        assert names["again"](images).shape == names["compressed"].model(images).shape
    assert list(kronecker_modules(names["compressed"].model)) == ["0"]


def after_recover(names: Names, folder: Path) -> None:
    assert len(names["done"].epochs) == 2
    assert (folder / "run.pt").is_file()


def after_the_plan_file(_names: Names, folder: Path) -> None:
    assert read_plan_file(folder / "plan.toml").target == "rpi5"


def after_the_tutorial(names: Names, folder: Path) -> None:
    """Its own figures are what it says they are, and what it leaves behind is what it says it leaves."""
    assert names["target"]["dense"]["accuracy"] > 30  # an eighth by chance
    assert {path.name for path in (folder / "dist").iterdir()} >= {"report.html", "report.json", "config.toml"}
    assert names["agree"]


AFTERWARDS: dict[str, Callable[[Names, Path], None]] = {
    "README.md": after_the_readme,
    "docs/plan-file.md": after_the_plan_file,
    "docs/recover.md": after_recover,
    TUTORIAL: after_the_tutorial,
}
"""What has to be true once the page was followed."""


def followed(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.is_followed]


def read(page: str, folder: Path) -> None:
    """From top to bottom, in a folder that has what the page supposes."""
    modules, path = set(sys.modules), [*sys.path]
    reading = reader.Reader(folder, {} if page == TUTORIAL else reader.supposed_names())
    try:
        for block in followed(page):
            reading.follow(block)
        if page in AFTERWARDS:
            AFTERWARDS[page](reading.names, folder)
    finally:
        reader.forget(folder, modules, path)


OF_A_BUILD = [page for page in pages() if page != TUTORIAL and reader.uses_a_build(blocks(page))]


@pytest.mark.parametrize("page", [page for page in pages() if followed(page) and page not in OF_A_BUILD])
def test_a_page_can_be_followed(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tutorial supposes nothing."""
    monkeypatch.chdir(tmp_path)
    if page != TUTORIAL:
        reader.furnish(tmp_path)
    read(page, tmp_path)


@pytest.mark.parametrize("page", OF_A_BUILD)
def test_a_page_that_begins_with_a_build_can_be_followed(
    page: str, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ``dist/`` is that of an earlier build."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(built.folder, tmp_path / "dist")
    read(page, tmp_path)


@pytest.mark.parametrize("page", pages())
def test_every_block_is_followed_or_says_why_not(page: str) -> None:
    for block in blocks(page):
        assert block.language in (*FOLLOWED, *SHOWN), f"{block.place}: no language that tests/docs/pages.py knows"
        is_mark = block.mark.startswith(MARKS)
        assert not block.mark or is_mark, f"{block.place}: {block.mark!r} is no mark of tests/docs/pages.py"
        if block.mark.startswith("run by "):
            assert (ROOT / block.mark.removeprefix("run by ")).is_file(), block.place
    assert page in RECORDS or not loose_commands(page), f"{page}: put these commands into a block: ```sh"


@pytest.mark.parametrize("page", pages())
def test_a_command_is_understood(page: str) -> None:
    """The parser refuses what it does not know before it answers ``--help``, so an answer means that it knows all."""
    for _, *arguments in (words for words in own_commands(page) if words[0] == "kronexport"):
        ended = command(*arguments, "--help")
        assert ended.code == 0, f"{page}: {arguments}: {ended.err}"
        assert "Usage" in ended.out


def test_an_unknown_flag_would_be_seen() -> None:
    """The test above relies on it."""
    assert command("build", "net:net", "--no-such-flag", "--help").code == 2


@pytest.mark.parametrize("page", pages())
def test_a_benchmark_is_there_with_its_flags(page: str) -> None:
    """They take minutes to hours: what is checked is that the module is there and knows each flag."""
    for words in own_commands(page):
        if words[:2] == ["python", "-m"] and words[2].startswith("benchmarks."):
            found = importlib.util.find_spec(words[2])
            assert found is not None, f"{page}: {words}"
            assert found.origin is not None
            source = Path(found.origin).read_text(encoding="utf-8")
            for flag in (word for word in words[3:] if word.startswith("--")):
                assert f'"{flag}"' in source or flag in SHARED_FLAGS, f"{page}: {words}: {flag}"


@pytest.mark.parametrize(
    ("page", "file"),
    [
        ("docs/add-a-lowering.md", "kronexport/lower/placement.py"),
        ("docs/add-a-method.md", "kronexport/factorize/decompose.py"),
    ],
)
def test_code_that_a_page_quotes_is_that_of_the_file(page: str, file: str) -> None:
    """Its first block of Python, whose imports come before a gap of two lines."""
    first = next(block for block in blocks(page) if block.language == "python")
    assert first.text.split("\n\n\n")[-1].strip() in text_of(file)


@pytest.mark.parametrize("page", pages())
def test_a_link_leads_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    for link in re.findall(r"\]\(((?!http)[^)#]+)", text_of(page)):
        assert (folder / link).exists(), f"{page}: {link}"


def test_the_shortest_target_file_is_one(tmp_path: Path) -> None:
    """That of docs/add-a-target.md, as it stands there."""
    first = next(block for block in blocks("docs/add-a-target.md") if block.language == "toml")
    (tmp_path / "my-board.toml").write_text(first.text, encoding="utf-8")
    (profile,) = list_targets(tmp_path)
    assert set(profile.facts) >= {"opset", "threads", "rank_multiple", "runtime.version"}


def test_the_readme_leads_to_every_page() -> None:
    """But to those that it leads to by another page."""
    readme = text_of("README.md")
    unknown = [page for page in pages()[1:] if page not in readme and not _is_linked(page)]
    assert not unknown


def _is_linked(page: str) -> bool:
    name = Path(page).name
    return any(f"]({name}" in text_of(other) for other in pages()[1:] if other != page)
