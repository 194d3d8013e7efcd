"""The pages of the documentation, and the code blocks of each with what stands before them.

A block is fenced, and its language says what becomes of it:

    sh, python          followed by tests/docs/reader.py, in the order of the page
    toml, json, text    data and output: shown, not followed

A comment of HTML on the line before a block, which no reader sees, says otherwise:

    <!-- not run: REASON -->      it is not followed; its commands are parsed all the same
    <!-- dry run: REASON -->      every ``kronexport build`` in it gets ``--dry-run``
    <!-- run by tests/FILE -->    that test follows it
    <!-- file: NAME -->           it is the content of a file, which the reader saves
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
FOLLOWED: Final = ("sh", "python")
SHOWN: Final = ("toml", "json", "text")
MARKS: Final = ("not run: ", "dry run: ", "run by ", "file: ")

RECORDS: Final = ("docs/benchmarks.md", "docs/scale.md")
"""Tables with the commands that made them, which take hours: these are parsed alone."""

_FENCED = re.compile(r"(?:^<!-- ([^\n]*?) -->\n+)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LOOSE = re.compile(r"^ {4,}((?:kronexport|python3?|pytest|pip|make|\./\S+|/usr/\S+) .*)$", re.MULTILINE)
_INLINE = re.compile(r"`(kronexport [^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block; ``mark`` is what the comment before it says, empty if there is none."""

    page: str
    line: int
    language: str
    text: str
    mark: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_followed(self) -> bool:
        """Whether the reader does what it says; files are saved by him, too."""
        is_left = self.page in RECORDS or self.mark.startswith(("not run: ", "run by "))
        return self.language in FOLLOWED and not is_left

    @property
    def commands(self) -> list[list[str]]:
        """Of a block of the shell: its lines as words, continued ones joined, comments off."""
        lines = self.text.replace("\\\n", " ").splitlines() if self.language == "sh" else []
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def pages() -> list[str]:
    """README.md and every page of docs/ but the decisions, which are of their day."""
    return ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = text_of(page)
    return [
        Block(page, text.count("\n", 0, found.start(2)) + 1, found[2], found[3], found[1] or "")
        for found in _FENCED.finditer(text)
    ]


def loose_commands(page: str) -> list[str]:
    """Commands that are indented where they should be fenced; continued lines are joined."""
    unfenced = _FENCED.sub("", text_of(page)).replace("\\\n", " ")
    return [re.sub(r"\s+#.*", "", line) for line in _LOOSE.findall(unfenced)]


def own_commands(page: str) -> Iterator[list[str]]:
    """Every command line of kronexport on a page, wherever it stands, as words."""
    for block in blocks(page):
        yield from block.commands
    loose = loose_commands(page) if page in RECORDS else []
    inline = [re.sub(r"\|\w+", "", words) for words in _INLINE.findall(text_of(page))]  # info|clean: the first will do
    yield from map(shlex.split, [*loose, *inline])
