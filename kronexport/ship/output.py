"""The output folder: what it holds, where, and that nobody else's files are in it.

OUT/report.html  report.json  config.toml
OUT/<target>/                      one bundle
OUT/intermediates/dense.onnx
OUT/intermediates/<target>/        portable.onnx  dense.onnx  factors.safetensors  plan.toml
"""

import fcntl
import json
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kronexport.errors import UserInputError
from kronexport.files import TEMP_PREFIX, remove_leftovers, write_text_aside

INTERMEDIATES = "intermediates"
LOCK = ".lock"
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

    def target_dense_onnx(self, target: str) -> Path:
        """The dense network as it was lowered and measured for one target."""
        return self.intermediates(target) / "dense.onnx"

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


def check_output(out: Path) -> None:
    """Refuses an ``out`` that a build could not write to, before any work; writes nothing.

    Raises:
        UserInputError: ``out`` is a file, or holds files that are not ours.
    """
    if out.exists() and not out.is_dir():
        raise UserInputError(f"{out}: a file, expected a folder; choose another --out")
    _refuse_foreign(out)


@contextmanager
def prepare_output(out: Path) -> Iterator[OutputFolder]:
    """Makes ``out`` ready to be written to, for one build at a time.

    A new or empty folder, and one that an earlier build wrote, are accepted; what a killed run left unfinished is
    deleted. Finished parts of an earlier build stay until ``publish`` or until the new part takes their place. A new
    folder that nothing came to is gone after an error.

    Args:
        out: The folder of ``--out``; made with its parents if missing.

    Raises:
        UserInputError: As ``check_output``, or ``out`` cannot be written, or another build is writing to it.
        KronexportError: The disk is full.
    """
    check_output(out)
    is_new = not out.exists()
    try:
        write_text_aside(out / INTERMEDIATES / MARKER, _MARKER_TEXT)
        with _only_writer(out):
            for folder in (out, out / INTERMEDIATES, *_subfolders(out / INTERMEDIATES)):
                remove_leftovers(folder)
            try:
                yield OutputFolder(out)
            except BaseException:
                if is_new and not any(path.is_file() for path in out.rglob("*") if path.name not in (MARKER, LOCK)):
                    shutil.rmtree(out)
                raise
    except (PermissionError, NotADirectoryError) as error:
        raise UserInputError(f"{out}: {error.strerror}; expected a folder to write to; choose another --out") from error


def remove_stale(output: OutputFolder, targets: Collection[str]) -> None:
    """Removes what an earlier build left of targets that the new report does not hold.

    That is a folder which bears the name of the target that its manifest or its plan is of: copies under other names,
    links, and whatever else came to the output meanwhile are the user's.
    """
    told: tuple[tuple[Path, str, Callable[[str], Any]], ...] = (
        (output.root, "manifest.json", json.loads),
        (output.root / INTERMEDIATES, "plan.toml", tomllib.loads),
    )
    for folder, name, parse in told:
        for entry in _subfolders(folder):
            is_its_own = not entry.is_symlink() and _target_of(entry / name, parse) == entry.name
            if is_its_own and entry.name not in targets:
                shutil.rmtree(entry)


def _target_of(path: Path, parse: Callable[[str], Any]) -> Any:
    """What a manifest or a plan says that it is of; None where that cannot be read."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return parse(path.read_text(encoding="utf-8"))["target"]
    return None


@contextmanager
def _only_writer(out: Path) -> Iterator[None]:
    """Holds a lock that the operating system lets go when this process ends, however it ends."""
    with (out / INTERMEDIATES).joinpath(LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserInputError(
                f"{out}: another build is writing to it; wait until it ends or choose another --out"
            ) from error
        yield


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
