"""The output folder: what it holds, where, and that nobody else's files are in it.

OUT/report.html  report.json  config.toml
OUT/<target>/                      one bundle
OUT/intermediates/dense.onnx
OUT/intermediates/<target>/        portable.onnx  factors.safetensors  plan.toml
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kronexport.errors import UserInputError
from kronexport.files import TEMP_PREFIX, remove_leftovers, write_text_aside

INTERMEDIATES = "intermediates"
MARKER = ".kronexport"
"""File in ``intermediates/`` that says whose output this is: a lone ``config.toml`` may well be the user's own."""

_KNOWN = frozenset({"report.html", "report.json", "config.toml", INTERMEDIATES})
_MARKER_TEXT = "Written by kronexport. Everything in this output folder is replaced by the next build into it.\n"
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """Where each part of an output folder goes. ``target`` is always the resolved name."""

    root: Path

    @property
    def report_json(self) -> Path:
        return self.root / "report.json"

    @property
    def report_html(self) -> Path:
        return self.root / "report.html"

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def dense_onnx(self) -> Path:
        return self.root / INTERMEDIATES / "dense.onnx"

    def bundle(self, target: str) -> Path:
        return self.root / target

    def intermediates(self, target: str) -> Path:
        return self.root / INTERMEDIATES / target

    def portable_onnx(self, target: str) -> Path:
        return self.intermediates(target) / "portable.onnx"

    def factors(self, target: str) -> Path:
        return self.intermediates(target) / "factors.safetensors"

    def plan(self, target: str) -> Path:
        return self.intermediates(target) / "plan.toml"

    @contextmanager
    def work_folder(self, target: str) -> Iterator[Path]:
        """A temporary folder on the disk that the results go to, gone when the block ends."""
        parent = self.intermediates(target)
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=TEMP_PREFIX, dir=parent) as folder:
            yield Path(folder)


def prepare_output(out: Path) -> OutputFolder:
    """Makes ``out`` ready to be written to, before any work starts.

    A new or empty folder, and one that an earlier build wrote, are accepted; what a killed run left unfinished is
    deleted. Finished parts of an earlier build stay until the new part takes their place.

    Args:
        out: The folder of ``--out``; made with its parents if missing.

    Raises:
        UserInputError: ``out`` is a file, cannot be written, or holds files that are not ours.
        KronexportError: The disk is full.
    """
    if out.exists() and not out.is_dir():
        raise UserInputError(f"{out}: a file, expected a folder; choose another --out")
    try:
        _refuse_foreign(out)
        for folder in (out, out / INTERMEDIATES, *_subfolders(out / INTERMEDIATES)):
            remove_leftovers(folder)
        write_text_aside(out / INTERMEDIATES / MARKER, _MARKER_TEXT)
    except OSError as error:
        raise UserInputError(f"{out}: {error.strerror}; expected a folder to write to; choose another --out") from error
    return OutputFolder(out)


def is_bundle(folder: Path) -> bool:
    """Whether ``folder`` is a bundle by the names of its files; says nothing of its integrity."""
    return (folder / "manifest.json").is_file() and (folder / "SHA256SUMS").is_file()


def _subfolders(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []


def _is_empty_folder(entry: Path) -> bool:
    """Whether nobody has anything in ``entry``: a run that met a full disk may leave such folders."""
    return entry.is_dir() and all(
        inner.name.startswith(TEMP_PREFIX) or _is_empty_folder(inner) for inner in entry.iterdir()
    )


def _refuse_foreign(out: Path) -> None:
    entries = sorted(out.iterdir()) if out.is_dir() else []
    entries = [entry for entry in entries if not (entry.name.startswith(TEMP_PREFIX) or _is_empty_folder(entry))]
    bundles = {entry for entry in entries if is_bundle(entry)}
    is_ours = bool(bundles) or (out / INTERMEDIATES / MARKER).is_file()
    foreign = [entry.name for entry in entries if not (is_ours and (entry in bundles or entry.name in _KNOWN))]
    if not foreign:
        return
    more = f" and {len(foreign) - _MOST_NAMED} more" if len(foreign) > _MOST_NAMED else ""
    raise UserInputError(
        f"{out}: holds files that kronexport did not write: {', '.join(foreign[:_MOST_NAMED])}{more}; expected a new "
        "or empty folder, or the output of an earlier build; choose another --out"
    )
