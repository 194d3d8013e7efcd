"""Writing so that nothing half-written is ever found under its final name.

Standard library only, for every layer. A file or folder is made under a temporary name that begins with
``TEMP_PREFIX``, in the same folder as its final name (a rename across file systems is not atomic), then renamed.
A full disk becomes a ``KronexportError`` that says where and how much was needed.
"""

import errno
import json
import math
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from kronexport.errors import KronexportError

TEMP_PREFIX = ".kronexport-"
"""What the name of everything unfinished begins with; whatever bears it after a run can be deleted."""

_STDOUT, _STDERR = 1, 2
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def temporary_sibling(path: Path) -> Path:
    """A free temporary name beside ``path``; it keeps the suffix, by which some writers choose the format."""
    return path.with_name(f"{TEMP_PREFIX}{secrets.token_hex(4)}-{path.name}")


def bytes_under(path: Path) -> int:
    """Size in bytes of a file, or of all files in a folder; 0 if there is none."""
    if path.is_dir():
        return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
    return path.stat().st_size if path.exists() else 0


@contextmanager
def atomic_write(path: Path, *, needed: int | None = None) -> Iterator[Path]:
    """Gives a temporary path to write to, which becomes ``path`` when the block ends without an error.

    Args:
        path: The final name; an existing file is replaced. Missing parent folders are made.
        needed: Bytes that will be written, if known, for the message of a full disk.

    Raises:
        KronexportError: The disk is full. ``path`` is as it was, and nothing else is left.
    """
    aside = temporary_sibling(path)
    try:
        with _disk_full_explained(path, aside, needed):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield aside
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path, *, needed: int | None = None) -> Iterator[Path]:
    """Gives an empty temporary folder to fill, which becomes ``folder`` when the block ends without an error.

    An existing ``folder`` is moved away, then removed once the new one has its name. No portable call exchanges two
    folders in one step, so between two renames there is a moment without either; an error there puts the old one back.

    Args:
        folder: The final name. Missing parent folders are made.
        needed: Bytes that will be written, if known, for the message of a full disk.

    Raises:
        KronexportError: The disk is full. ``folder`` is as it was, and nothing else is left.
    """
    aside = temporary_sibling(folder)
    try:
        with _disk_full_explained(folder, aside, needed):
            aside.mkdir(parents=True)
            yield aside
            _rename_over(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_bytes_aside(path: Path, data: bytes) -> None:
    """Writes ``data`` to ``path``, all or nothing. Raises ``KronexportError`` if the disk is full."""
    with atomic_write(path, needed=len(data)) as aside:
        aside.write_bytes(data)


def write_text_aside(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8, line ends as they are, all or nothing; ``KronexportError`` if the disk is full."""
    write_bytes_aside(path, text.encode())


def json_text(value: Any, place: str) -> str:
    """``value`` as indented JSON text with a final newline.

    Args:
        value: What ``json`` can write; no NaN and no infinity, which JSON does not know.
        place: Where the text is going, for the message.

    Raises:
        KronexportError: A number isn't finite or an object isn't JSON: a bug, since what is unknown is written as null.
    """
    try:
        return json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    except (ValueError, TypeError) as error:
        where = next(_not_finite(value, ""), "")
        raise KronexportError(
            f"{place}: {error} (at {where or 'an unknown key'}); expected finite numbers, text, lists and dicts: "
            "what was not measured is null"
        ) from error


def write_json_aside(path: Path, value: Any) -> None:
    """Writes ``value`` as indented JSON, all or nothing; ``KronexportError`` as ``json_text`` or on a full disk."""
    write_text_aside(path, json_text(value, str(path)))


def remove_leftovers(folder: Path) -> None:
    """Deletes what a run that was killed left unfinished directly in ``folder``."""
    for entry in sorted(folder.glob(f"{TEMP_PREFIX}*")):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Sends everything that is printed on stdout to stderr, by C code too: results on stdout must stay clean."""
    with _stdout_to(_STDERR), redirect_stdout(sys.stderr):
        yield


@contextmanager
def stdout_of_c_dropped() -> Iterator[None]:
    """What C code prints on stdout goes nowhere."""
    with Path(os.devnull).open("wb") as nowhere, _stdout_to(nowhere.fileno()):
        yield


@contextmanager
def _stdout_to(descriptor: int) -> Iterator[None]:
    sys.stdout.flush()
    saved = os.dup(_STDOUT)
    os.dup2(descriptor, _STDOUT)
    try:
        yield
    finally:
        os.dup2(saved, _STDOUT)
        os.close(saved)


@contextmanager
def _disk_full_explained(path: Path, aside: Path, needed: int | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        size = f"{needed} bytes needed" if needed is not None else f"more than {bytes_under(aside)} bytes needed"
        raise KronexportError(
            f"{path}: disk full: {size}, {_free_bytes(path)} free; nothing was left half-written. "
            "Free some space or choose another folder with --out"
        ) from error


def _free_bytes(path: Path) -> str:
    for folder in path.absolute().parents:
        with suppress(OSError):
            return str(shutil.disk_usage(folder).free)
    return "unknown"


def _rename_over(new: Path, folder: Path) -> None:
    if not folder.exists():
        new.rename(folder)
        return
    old = temporary_sibling(folder)
    try:
        folder.rename(old)
        new.rename(folder)
    except BaseException:  # Ctrl-C between the two renames counts too
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old)


def _not_finite(value: Any, key: str) -> Iterator[str]:
    """Dotted keys of the numbers in ``value`` that JSON cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        yield key
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _not_finite(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _not_finite(item, f"{key}[{index}]")
