"""build_engine.sh: what builds the engine on the board, of the same commands that are run from here."""

import re
import shlex
from importlib import resources
from typing import Final

from kronexport.backends.profile import Precision, Route, TargetProfile
from kronexport.backends.trtexec import (
    ON_JETPACK,
    Build,
    Command,
    build_command,
    dialect_of,
    engine_name,
    time_command,
)
from kronexport.errors import KronexportError
from kronexport.files import TEMP_PREFIX

SCRIPT: Final = "build_engine.sh"

PRECISION_OF: Final[dict[Route, Precision]] = {
    "float-onnx": "fp32",
    "fp16-flag": "fp16",
    "fp16-onnx": "fp16",
    "qdq-symmetric": "int8",
}
"""What TensorRT builds by a route."""

_DATATYPES: Final[dict[Precision, str]] = {"fp32": "", "fp16": "Datatype.*(FP16|Half)", "int8": "Datatype.*Int8"}
"""What the layer information has somewhere if any layer runs in a precision: a regular expression of grep -E."""


def build_script(profile: TargetProfile, route: Route = "float-onnx", *, allow_fallback: bool = False) -> str:
    """The text of build_engine.sh for a target with a board.

    Args:
        profile: of the target.
        route: how the precision of model.onnx is reached.
        allow_fallback: an engine without any layer in that precision is warned of, not refused.

    Raises:
        KronexportError: The profile is not one of TensorRT.
        UserInputError: Its release of TensorRT is not known, or has no such route.
    """
    board = profile.board
    if board is None:
        raise KronexportError(f"{profile.name}: backend {profile.backend} has no board; expected one of tensorrt")
    version, precision = profile.runtime.version, PRECISION_OF[route]
    settings = {
        "target": profile.name,
        "chip": board.compatible,
        "jetpack": board.jetpack,
        "tensorrt": version,
        "precision": precision,
        "datatype": _DATATYPES[precision],
        "allow_fallback": "yes" if allow_fallback else "",
        "remedy": "build again with the --target of that JetPack: kronexport targets list",
    }
    dialect = dialect_of(version)
    build = Build("model.onnx", "$partial", route, board.workspace_mib, f"$cache/timing-{version}.cache", "$layers")
    blanks = {
        "settings": "\n".join(f"{name}={shlex.quote(value)}" for name, value in settings.items()),
        "engine": engine_name(board.sm, version, precision),
        "temp_prefix": TEMP_PREFIX,
        "on_jetpack": ON_JETPACK,
        "build_command": _in_bash(build_command("$trtexec", dialect, build)),
        "time_command": _in_bash(
            time_command("$trtexec", dialect, "$bundle/model.engine", "${built%.engine}.times.json")
        ),
    }
    text = resources.files("kronexport.backends").joinpath(f"{SCRIPT}.in").read_text(encoding="utf-8")
    for name, value in blanks.items():
        text = text.replace(f"@{name}@", value)
    return text


def _in_bash(command: Command) -> str:
    """A command whose words may hold variables of the script, which the shell puts in."""
    for word in command:
        if re.search(r'[`"\\!]|\$\(', word):
            raise KronexportError(f"build_engine.sh: {word!r} cannot stand between double quotes")
    return " \\\n    ".join(f'"{word}"' for word in command)
