"""The way of the data is one way: a folder imports only folders before it, and importing kronexport is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kronexport

PACKAGE = Path(kronexport.__file__).parent
ORDER = (
    "survey",
    "factorize",
    "recover",
    "export",
    "lower",
    "precision",
    "machines",
    "backends",
    "verify",
    "measure",
    "farm",
    "plan",
    "ship",
    "stages",
)
COMMON = {"records", "errors", "files", "cache", "agent", "__init__"}
"""Modules that every folder may import; they import no folder."""
OF_STAGES = {"config"}
"""What the last folder may import besides: what a target's stages do follows from what was asked for."""
RUNTIMES = {"torch", "onnx", "onnx_ir", "onnxruntime", "openvino", "onnxsim", "onnxscript", "tensorrt", "scipy"}


def imported(path: Path) -> set[str]:
    """First names below ``kronexport`` that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module] if node.module != "kronexport" else [f"kronexport.{a.name}" for a in node.names]
        names |= {module.split(".")[1] for module in modules if module.startswith("kronexport.")}
    return names


FOLDERS = [folder for folder in ORDER if (PACKAGE / folder).is_dir()]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_stage_imports_only_stages_before_it(folder: str) -> None:
    """Otherwise the line of the pipeline is no line."""
    allowed = {*ORDER[: ORDER.index(folder) + 1], *COMMON, *(OF_STAGES if folder == "stages" else ())}
    for path in (PACKAGE / folder).rglob("*.py"):
        assert imported(path) <= allowed, f"{path.relative_to(PACKAGE)} imports {sorted(imported(path) - allowed)}"


def test_every_folder_is_in_the_order() -> None:
    """A new folder has to find its place."""
    found = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert found <= set(ORDER), sorted(found - set(ORDER))


@pytest.mark.parametrize("module", ["records", "errors", "files", "cache", "agent"])
def test_common_modules_import_no_stage(module: str) -> None:
    """What everybody imports depends on nothing but errors, and on how files are written."""
    assert imported(PACKAGE / f"{module}.py") <= {"errors", "files"}


@pytest.mark.parametrize("statement", ["import kronexport", "import kronexport.cli"])
def test_importing_loads_no_runtime(statement: str) -> None:
    """``import kronexport`` and ``kronexport --help`` must answer at once."""
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not RUNTIMES & {name.split(".")[0] for name in done.stdout.split()}


def test_public_names_load_when_used() -> None:
    """Each name of ``__all__`` is there, and an unknown one is an AttributeError."""
    for name in kronexport.__all__:
        assert getattr(kronexport, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kronexport.nothing  # noqa: B018  the access is the test
