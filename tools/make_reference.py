"""Makes docs/reference.md of the code: commands, exit codes, configuration, functions, keys of report.json.

    python tools/make_reference.py

Whatever it says stands in the code: in the parser of the command line, in docstrings and in types. The test
tests/docs/test_reference.py compares the committed file with what comes out here.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

import kronexport
from kronexport import errors, records
from kronexport.cli import app
from kronexport.config import BuildConfig, MeasureConfig
from kronexport.files import write_text_aside
from kronexport.ship import manifest

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"
OPENING = """# Reference

Made by `python tools/make_reference.py` of the code itself: change the code and run it again.
[Commands](#commands), [exit codes](#exit-codes), [configuration](#configuration), [functions](#functions),
[report.json](#reportjson), [manifest.json](#manifestjson).
"""

OF_REPORT = """`kronexport schema` prints it as a JSON schema. Every key is always there; what was not measured
is `null`, with a reason in `unmeasured`. Keys may be added, none is renamed.
"""
OF_CONFIG = """`--config build.toml`, and the `config.toml` of an output. Keys are the long flag names; flags win
over `--set`, `--set` over the file; relative paths are those of the file's folder.
"""

REPORT = (
    records.Report,
    records.TargetReport,
    records.ModelFigures,
    records.LatencyStats,
    records.Speedup,
    records.GoalResult,
    records.Check,
    records.LayerFigures,
    records.ParetoPoint,
    records.Skipped,
    records.BatchFigures,
    records.Training,
)
MANIFEST = (
    manifest.Manifest,
    manifest.InputTensor,
    manifest.OutputTensor,
    manifest.Requirement,
    manifest.GoldenReference,
    records.BatchRange,
)


def reference() -> str:
    """The text of the page."""
    parts = [
        OPENING,
        "## Commands\n",
        *_commands(typer.main.get_command(app), "kronexport"),
        "## Exit codes\n",
        *_exit_codes(),
        "## Configuration\n",
        *_configuration(),
        "## Functions\n",
        "Of the package `kronexport`; each loads what it needs when it is first used.\n",
        *map(_public, sorted(set(kronexport.__all__) - {"__version__"}, key=str.lower)),
        "## report.json\n",
        OF_REPORT,
        *map(_record, REPORT),
        "## manifest.json\n",
        "Beside these it has `compatibility`: bundles of one key run on the same devices.\n",
        *map(_record, MANIFEST),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _commands(command: Any, name: str) -> Iterator[str]:
    """A command with its arguments and options, or all commands of a group."""
    if hasattr(command, "commands"):
        for word, one in command.commands.items():
            yield from _commands(one, f"{name} {word}")
        return
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    placed = "".join(f" {_placeholder(param)}" for param in arguments)
    yield f"### `{name}{placed}`\n"
    yield f"{inspect.cleandoc(command.help)}\n"
    rows = [(_spelled(param, command), _helped(param)) for param in command.params]
    yield _table(("", ""), rows)


def _placeholder(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _spelled(param: Any, command: Any) -> str:
    """An option as it is typed, with the type of its value, or what stands for an argument."""
    if param.param_type_name == "argument":
        return f"`{_placeholder(param)}`"
    names = ", ".join(f"`{name}`" for name in param.opts if name.startswith("--"))
    kind = param.metavar or param.display_type(typer.Context(command))
    return names if param.is_flag else f"{names} `{kind}`"


def _helped(param: Any) -> str:
    default = param.default
    is_shown = default not in (None, False) and not callable(default)
    return f"{param.help or ''}{f' Default: {default}.' if is_shown else ''}"


def _exit_codes() -> Iterator[str]:
    kinds = [
        kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.KronexportError)
    ]
    rows = [
        ("0", "", "Done."),
        ("130, 143", "", "Interrupted by Ctrl-C, terminated by SIGTERM; nothing half-written is left."),
    ]
    rows += [(str(kind.exit_code), f"`{kind.__name__}`", _first_line(kind)) for kind in kinds]
    yield _table(("code", "exception", "what it says"), sorted(rows, key=lambda row: int(row[0].split(",")[0])))
    yield "With several targets the first of 1, 4, 6, 5 that applies. `KronexportError` is the base of all.\n"


def _configuration() -> Iterator[str]:
    yield OF_CONFIG
    for title, model in (("", BuildConfig), ("measure.", MeasureConfig)):
        yield _table(("key", "type", "what it is"), _fields(model, title))


def _fields(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    types = dict(_annotated(model))
    for name, field in model.model_fields.items():
        if field.description:
            yield f"`{prefix}{name.replace('_', '-') if not prefix else name}`", f"`{types[name]}`", field.description


def _public(name: str) -> str:
    """Signature and docstring of one name of the package."""
    found = getattr(kronexport, name)
    node = _tree(found)
    if isinstance(node, ast.ClassDef):
        init = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)
        fields = ", ".join(f"{key}: {annotation}" for key, annotation in _annotated(found))
        called = ast.unparse(_without_self(init.args)) if init else fields
        text = f"class {name}({called})"
    else:
        text = f"{name}({ast.unparse(node.args)}) -> {ast.unparse(node.returns)}"
    told = textwrap.indent(inspect.getdoc(found) or "", "    ")
    return f"### `kronexport.{name}`\n\n```text\n{_folded(text)}\n\n{told}\n```\n"


def _without_self(arguments: ast.arguments) -> ast.arguments:
    arguments.args = arguments.args[1:]
    return arguments


def _folded(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 110, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False))


def _record(kind: type) -> str:
    """The keys of a dataclass as JSON has them, with their types as the code says them."""
    rows = [(f"`{name}`", f"`{annotation}`") for name, annotation in _annotated(kind)]
    text = "\n".join(line.replace("``", "`") for line in (inspect.getdoc(kind) or "").splitlines())
    return f"### {kind.__name__}\n\n{text}\n\n{_table(('key', 'type'), rows)}"


def _annotated(kind: type) -> Iterator[tuple[str, str]]:
    """Every field of a class with its annotation, as it is written."""
    for node in _tree(kind).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, ast.unparse(node.annotation)


def _tree(found: Any) -> Any:
    return ast.parse(textwrap.dedent(inspect.getsource(found))).body[0]


def _first_line(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split())


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = tuple(heads)
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines) + "\n"


if __name__ == "__main__":
    write_text_aside(PAGE, reference())
