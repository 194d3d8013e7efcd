"""What was computed once and is kept for the next run, by the hash of what it was computed from.

One subfolder a kind of result, below ``$KRONEXPORT_CACHE`` if that is set, else where the system keeps the caches of
programs: one file a result, but for times, which are all in one file (``measure.store``). A cache fails no run: what
cannot be read is computed again, what cannot be written is told once.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import platformdirs

from kronexport.errors import KronexportError
from kronexport.files import TEMP_PREFIX, write_bytes_aside

if TYPE_CHECKING:
    from pydantic import TypeAdapter

log = logging.getLogger("kronexport")

T = TypeVar("T")

Kind = Literal["scan", "candidates", "plan", "recover"]
"""A subfolder with a file a result."""

_SUFFIXES: dict[Kind, str] = {"scan": ".npz", "candidates": ".json", "plan": ".json", "recover": ".pt"}

_DIGEST_BYTES = 20
_STORE_FOLDER, _STORE_FILE = "measure", "times.sqlite"
_ENGINE_FOLDER = "tensorrt"
_OURS = {
    _STORE_FOLDER: re.compile(rf"{re.escape(_STORE_FILE)}(\.lock|\.aside-[0-9a-f]+)?(-wal|-shm|-journal)?"),
    _ENGINE_FOLDER: re.compile(rf"({re.escape(TEMP_PREFIX)}[0-9a-f]+-)?timing-[\d.]+\.cache"),
} | {
    kind: re.compile(rf"({re.escape(TEMP_PREFIX)}[0-9a-f]+-)?[0-9a-f]{{{2 * _DIGEST_BYTES}}}{re.escape(suffix)}")
    for kind, suffix in _SUFFIXES.items()
}
"""By subfolder the names of what is written there, and of what a run that was killed leaves."""

_unwritable: set[Path] = set()
"""The folders that a warning was given for."""


@dataclass(frozen=True, slots=True)
class CacheUse:
    """The root folder, and the number and total bytes of the files below it that are ours."""

    path: str
    files: int
    bytes: int


def cache_folder() -> Path:
    """The root; it need not exist."""
    return Path(os.environ.get("KRONEXPORT_CACHE") or platformdirs.user_cache_dir("kronexport"))


def content_key(*parts: bytes) -> str:
    """The hash of all that a result depends on, the version of its algorithm included: the name of its file."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


@cache
def code_key() -> bytes:
    """The hash of this package's code, for results that much of it has a part in."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return content_key(*(file.read_bytes() for file in files)).encode()


def read_cached(kind: Kind, key: str) -> bytes | None:
    """What is kept under ``key``, None where there is nothing that can be read."""
    try:
        return cached_file(kind, key).read_bytes()
    except OSError:
        return None


def read_record(kind: Kind, key: str, file: "TypeAdapter[T]") -> T | None:
    """What is kept under ``key`` as JSON; None where there is nothing, or the file is damaged."""
    content = read_cached(kind, key)
    if content is None:
        return None
    try:
        return file.validate_json(content)
    except ValueError:
        return None


def write_cached(kind: Kind, key: str, content: bytes) -> None:
    """Keep ``content``, all or nothing; a folder that takes no files is warned of once."""
    folder = cache_folder()
    try:
        write_bytes_aside(cached_file(kind, key), content)
    except (OSError, KronexportError) as error:
        warn_unwritable(folder, error)


def cached_file(kind: Kind, key: str) -> Path:
    """Where a result is kept; neither it nor its folder need exist."""
    return cache_folder() / kind / f"{key}{_SUFFIXES[kind]}"


def store_path() -> Path:
    """Where the times of forms are kept; it need not exist."""
    return cache_folder() / _STORE_FOLDER / _STORE_FILE


def engine_cache() -> Path:
    """The folder of what TensorRT's builder learnt of this machine's kernels, by release; it need not exist."""
    return cache_folder() / _ENGINE_FOLDER


def warn_unwritable(folder: Path, error: Exception) -> None:
    """Say that nothing is kept in ``folder`` and why, once."""
    if folder not in _unwritable:
        _unwritable.add(folder)
        log.warning("%s: nothing is kept for the next run: %s; KRONEXPORT_CACHE sets another folder", folder, error)


def cache_use() -> CacheUse:
    """How much is kept."""
    return _use(list(_our_files()))


def clean_cache() -> CacheUse:
    """Remove our files, and our folders where nothing else is in them; returns what was removed.

    Raises:
        OSError: a file cannot be removed.
    """
    files = list(_our_files())
    removed = _use(files)
    for file in files:
        file.unlink(missing_ok=True)
    root = cache_folder()
    for folder in (*(root / name for name in _OURS), root):
        with suppress(OSError):  # not there, or it holds what is not ours
            folder.rmdir()
    return removed


def _our_files() -> Iterator[Path]:
    for folder, ours in _OURS.items():
        files = sorted((cache_folder() / folder).glob("*"))
        yield from (path for path in files if ours.fullmatch(path.name) and path.is_file())


def _use(files: list[Path]) -> CacheUse:
    return CacheUse(str(cache_folder()), len(files), sum(file.stat().st_size for file in files))
