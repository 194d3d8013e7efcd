"""Objects that the user names as ``pkg.mod:name`` or ``path/file.py:name``, and calls into the user's code.

Whatever the user's code raises ends as a UserInputError that shows the user's own line, not ours and not torch's.
"""

import difflib
import importlib
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import kronexport.errors
from kronexport.errors import KronexportError, UserInputError
from kronexport.survey.user_files import import_file

# A script that parses arguments or calls sys.exit() at import must end as a message, not as our own exit.
USER_EXCEPTIONS = (Exception, SystemExit)
_OWN_FOLDER = Path(kronexport.errors.__file__).parent
_LIBRARY_FOLDERS = tuple(Path(sysconfig.get_paths()[key]) for key in ("stdlib", "platstdlib", "purelib", "platlib"))
_LONGEST_MESSAGE = 600


def load_callable(spec: str, place: str) -> Callable[..., Any]:
    """The callable that ``spec`` names: ``pkg.mod:name`` or ``path/file.py:name``.

    The current folder is importable meanwhile. A file is loaded with its folder as its package (``user_files``).
    ``place`` opens every message: the option that the spec was given for.

    Raises:
        UserInputError: for a malformed spec, a missing file, module or name, code that fails to load, and for an
            object that cannot be called.
    """
    source, separator, name = spec.rpartition(":")
    if not separator or not source or not name.isidentifier():
        raise UserInputError(
            f"{place}: {spec!r} is not understood; expected pkg.mod:NAME or path/file.py:NAME, "
            f"NAME being a function there"
        )
    module = _load_file(source, place) if _is_path(source) else _load_module(source, place)
    if not hasattr(module, name):
        raise UserInputError(f"{place}: {source} has no {name!r}{suggestion(name, _callables(module))}")
    found = getattr(module, name)
    if not callable(found):
        raise UserInputError(
            f"{place}: {name} in {source} is a {type(found).__name__}, not a function; {_listed(_callables(module))}"
        )
    return found  # type: ignore[no-any-return]  # callable() narrows Any to nothing


def call_user(function: Callable[..., Any], *args: Any, doing: str) -> Any:
    """``function(*args)``; what it raises becomes a UserInputError that begins with ``doing``."""
    try:
        with _current_folder_importable():
            return function(*args)
    except KronexportError:  # raised on purpose below the user's code, as by a predictor it was given
        raise
    except USER_EXCEPTIONS as error:
        raise UserInputError(f"{doing}: raised {describe(error)}") from error


def describe(error: BaseException) -> str:
    """``ValueError: text, at file.py:12, in build: the line``: the last line of the user's code that led there."""
    message = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
    if len(message) > _LONGEST_MESSAGE:
        message = message[:_LONGEST_MESSAGE] + " ..."
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg}, at {error.filename}:{error.lineno}"
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    frame = _user_frame(error)
    return f"{text}, at {frame.filename}:{frame.lineno}, in {frame.name}: {frame.line}" if frame else text


def suggestion(name: str, known: Sequence[str]) -> str:
    """``; did you mean 'resnet18'?`` or, if nothing is near, what there is; empty if there is nothing."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    return f"; {_listed(known)}" if known else ""


def _user_frame(error: BaseException) -> traceback.FrameSummary | None:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_own(frame.filename)]
    written_by_user = [frame for frame in frames if not _is_library(frame.filename)]
    # A factory may itself be part of an installed package: then its last frame is the best there is.
    return next(iter(reversed(written_by_user or frames)), None)


def _is_own(filename: str) -> bool:
    return filename.startswith("<frozen") or Path(filename).is_relative_to(_OWN_FOLDER)


def _is_library(filename: str) -> bool:
    return any(Path(filename).is_relative_to(folder) for folder in _LIBRARY_FOLDERS)


def _is_path(source: str) -> bool:
    return source.endswith(".py") or "/" in source or "\\" in source or Path(source).is_file()


def _load_file(source: str, place: str) -> ModuleType:
    path = Path(source).expanduser()
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        near = sorted(other.name for other in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise UserInputError(f"{place}: {path} {found}; expected a Python file{suggestion(path.name, near)}")
    _check_source(path, place)
    try:
        with _current_folder_importable():
            return import_file(path)
    except USER_EXCEPTIONS as error:
        raise UserInputError(f"{place}: loading {path} raised {describe(error)}; {_import_remedy(error)}") from error


def _check_source(path: Path, place: str) -> None:
    if path.suffix != ".py":
        raise UserInputError(f"{place}: {path} is not a Python file; expected path/file.py:NAME")
    try:
        compile(path.read_bytes(), str(path), "exec")
    except OSError as error:
        raise UserInputError(f"{place}: {path} cannot be read ({error.strerror})") from error
    except (SyntaxError, ValueError) as error:  # ValueError: null bytes, in early releases of Python 3.11
        line = getattr(error, "lineno", None)
        where = f"{path}:{line}" if line else str(path)
        reason = getattr(error, "msg", str(error))
        raise UserInputError(f"{place}: {where} is not Python ({reason}); give a .py source file") from error


def _load_module(source: str, place: str) -> ModuleType:
    try:
        with _current_folder_importable():
            return importlib.import_module(source)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{source}.".startswith(f"{error.name}."):
            raise _import_failed(source, place, error) from error
        raise UserInputError(
            f"{place}: there is no module {error.name!r}; it is looked for in the current folder and among the "
            f"installed packages; start kronexport in the folder that holds it, or give path/file.py:NAME"
        ) from error
    except USER_EXCEPTIONS as error:
        raise _import_failed(source, place, error) from error


def _import_failed(source: str, place: str, error: BaseException) -> UserInputError:
    return UserInputError(f"{place}: importing {source} raised {describe(error)}; {_import_remedy(error)}")


def _import_remedy(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"install what provides {error.name!r} in this environment, or mend the import"
    return "mend that line; importing the file must only define things"


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """The current folder comes first on sys.path here, as for ``python -m``, and stays last for later imports."""
    folder = str(Path.cwd())
    if folder in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)
        sys.path.append(folder)


def _callables(module: ModuleType) -> list[str]:
    """Public callables that the module itself defines."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    ]


def _listed(names: Sequence[str]) -> str:
    most = 8
    if not names:
        return "it defines no function"
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"there are {', '.join(names[:most])}{rest}"
