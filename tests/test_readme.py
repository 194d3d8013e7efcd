"""The README: what it says beside its commands, which tests/docs/test_pages.py follows as those of every page."""

import re

import pytest

from sample_models.registry import SAMPLES
from tests.docs.pages import ROOT, blocks, text_of

README = text_of("README.md")
MAKE = [words[1] for block in blocks("README.md") for words in block.commands if words[0] == "make"]


def test_there_is_something_to_check() -> None:
    """Lest a change of layout empty the list below."""
    assert MAKE


@pytest.mark.parametrize("target", MAKE)
def test_a_make_target_of_the_readme_exists(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_readme_names_every_sample() -> None:
    paragraph = next(part for part in README.split("\n\n") if part.startswith("Samples:"))
    named = [name for code in re.findall(r"`([^`]+)`", paragraph) for name in code.split() if name[0] != "-"]
    assert sorted(named) == sorted(SAMPLES)


def test_what_it_gains_is_what_was_measured() -> None:
    """Each speed-up and accuracy before the picture stands in docs/benchmarks.md."""
    opening = README[: README.index("![")]
    figures = re.findall(r"\b\d+\.\d+(?:x\b|(?= %))|\b\d\d\.\d\d\b", opening)
    assert len(figures) >= 8
    measured = text_of("docs/benchmarks.md")
    missing = [figure for figure in figures if figure.removesuffix("x") not in measured]
    assert not missing
