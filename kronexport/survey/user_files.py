"""A user's own file, imported as if its folder were a package of its own.

The folder becomes a package with a private name, so that ``from .blocks import Block`` works with and without an
``__init__.py``. A plain ``import blocks`` beside the file works as well: modules of that package get an ``__import__``
of their own, which looks in the folder. So nothing is put on ``sys.path``, no module of the user's takes a public name
in ``sys.modules``, and a user's ``utils.py`` or ``onnx.py`` never stands in the way of an installed package.
"""

import builtins
import functools
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

_PREFIX = "_kronexport_user_"


def import_file(path: Path) -> ModuleType:
    """The module at ``path``; a file that was imported before is not executed again.

    If its folder is part of a package (an ``__init__.py`` in it and perhaps in the folders above), the whole package
    is reachable, ``from ..common import x`` included.
    """
    path = path.resolve()
    folder = _user_folder(path.parent)
    if folder not in sys.meta_path:
        sys.meta_path.insert(0, folder)
    importlib.invalidate_caches()  # the folder may have changed since a finder last listed it
    return importlib.import_module(folder.module_name(path))


class _UserFolder(MetaPathFinder):
    """Finds the modules of one user's folder, below one private package name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = _package_root(folder)
        self.is_package = (folder / "__init__.py").exists()
        digest = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
        self.package = _PREFIX + digest
        self.folder_package = ".".join((self.package, *folder.relative_to(self.root).parts))
        self._files: dict[str, Path] = {}

    def module_name(self, path: Path) -> str:
        """The private name of ``path``, a file in the folder, whatever characters its own name has."""
        if path.name == "__init__.py":
            return self.folder_package
        name = f"{self.folder_package}.{path.stem.replace('.', '_')}"
        self._files[name] = path
        return name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == self.package:
            return self._package_spec()
        if not fullname.startswith(f"{self.package}."):
            return None
        if fullname in self._files:
            file = self._files[fullname]
            return importlib.util.spec_from_file_location(fullname, file, loader=_UserLoader(fullname, file, self))
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _UserLoader(fullname, Path(spec.loader.path), self)
        return spec

    def _package_spec(self) -> ModuleSpec | None:
        init = self.root / "__init__.py"
        if not init.exists():
            spec = ModuleSpec(self.package, None, is_package=True)
            spec.submodule_search_locations = [str(self.root)]
            return spec
        return importlib.util.spec_from_file_location(
            self.package,
            init,
            loader=_UserLoader(self.package, init, self),
            submodule_search_locations=[str(self.root)],
        )

    def private_name(self, name: str) -> str | None:
        """Where a plain ``import name`` in this folder leads to; None for a module that is not the user's.

        Beside a loose file a sibling comes first, as for ``python file.py``; in a package it comes after what is
        installed, because there Python itself has no plain imports of siblings.
        """
        if self.is_package and name == self.root.name:
            return self.package
        file, sibling = self.folder / f"{name}.py", self.folder / name
        is_regular = file.is_file() or (sibling / "__init__.py").is_file()
        if (is_regular and not self.is_package) or ((is_regular or sibling.is_dir()) and not _importable(name)):
            return f"{self.folder_package}.{name}"
        return None

    def import_(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002  # the signature of builtins.__import__
        locals: Mapping[str, Any] | None = None,  # noqa: A002  # the signature of builtins.__import__
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """``builtins.__import__`` for the modules of this folder."""
        top, dot, rest = name.partition(".")
        private = self.private_name(top) if level == 0 else None
        importer = globals or {}
        # A file named like an installed package means that package when it imports that name; a package means itself.
        imports_own_name = private == importer.get("__name__") and "__path__" not in importer
        if private is None or imports_own_name:
            return builtins.__import__(name, globals, locals, fromlist, level)
        module = builtins.__import__(private + dot + rest, globals, locals, fromlist, 0)
        return module if fromlist else sys.modules[private]


class _UserLoader(SourceFileLoader):
    """Executes a source file with the ``__import__`` of its folder."""

    def __init__(self, fullname: str, path: Path, folder: _UserFolder) -> None:
        super().__init__(fullname, str(path))
        self._folder = folder

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": self._folder.import_}
        super().exec_module(module)


@functools.cache
def _user_folder(folder: Path) -> _UserFolder:
    return _UserFolder(folder)


def _package_root(folder: Path) -> Path:
    """The outermost folder of the package that ``folder`` belongs to; itself if it is not a package."""
    while (folder / "__init__.py").exists() and (folder.parent / "__init__.py").exists():
        folder = folder.parent
    return folder


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # loaded, but without a spec, such as __main__
        return True
