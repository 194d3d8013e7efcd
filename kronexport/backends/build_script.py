"""build_engine.sh: what builds the engine on the board, of the same commands that are run from here."""

import re
import shlex
from importlib import resources
from typing import Final

from kronexport import agent
from kronexport.backends.profile import Precision, Route, TargetProfile, required_board
from kronexport.backends.trtexec import (
    Build,
    Shapes,
    build_command,
    dialect_of,
    engine_name,
    time_command,
)
from kronexport.errors import KronexportError
from kronexport.files import TEMP_PREFIX
from kronexport.machines.place import Command

SCRIPT: Final = "build_engine.sh"

PRECISION_OF: Final[dict[Route, Precision]] = {
    "float-onnx": "fp32",
    "fp16-flag": "fp16",
    "fp16-onnx": "fp16",
    "qdq-symmetric": "int8",
}
"""What TensorRT builds by a route."""

_DATATYPES: Final[dict[Precision, str]] = {"fp32": "", "fp16": "Datatype.*(FP16|Half)", "int8": "Datatype.*Int8"}
"""What the layer information has somewhere if any layer reads or writes a precision: a regular expression of grep -E.

Which layers have weights is not to be had by lines: releases write the JSON of a layer over several or one. Node by
node it is proven by ``trt_precision``, where a build has the board.
"""


def build_script(
    profile: TargetProfile,
    route: Route = "float-onnx",
    *,
    shapes: tuple[Shapes, Shapes, Shapes] | None = None,
    allow_fallback: bool = False,
) -> str:
    """The text of build_engine.sh for a target with a board.

    Args:
        profile: of the target.
        route: how the precision of model.onnx is reached.
        shapes: as of ``trtexec.Build``; the command that is printed times the usual one.
        allow_fallback: an engine without any layer in that precision is warned of, not refused.

    Raises:
        KronexportError: The profile is not one of TensorRT.
        UserInputError: Its release of TensorRT is not known, or has no such route.
    """
    board = required_board(profile)
    version, precision = profile.runtime.version, PRECISION_OF[route]
    settings = {
        "target": profile.name,
        "chip": profile.compatible[0],
        "jetpack": board.jetpack,
        "tensorrt": version,
        "precision": precision,
        "datatype": _DATATYPES[precision],
        "allow_fallback": "yes" if allow_fallback else "",
        "remedy": "build again with the --target of that JetPack: kronexport targets list",
    }
    dialect = dialect_of(version)
    cache = f"$cache/timing-{version}.cache"
    build = Build("model.onnx", "$partial", route, board.workspace_mib, cache, "$layers", shapes=shapes)
    usual = None if shapes is None else shapes[1]
    times = "${built%.engine}.times.json"
    blanks = {
        "settings": "\n".join(f"{name}={shlex.quote(value)}" for name, value in settings.items()),
        "engine": engine_name(board.sm, version, precision),
        "temp_prefix": TEMP_PREFIX,
        "on_jetpack": agent.TRTEXEC_ON_JETPACK,
        "build_command": _in_bash(build_command("$trtexec", dialect, build)),
        "time_command": _in_bash(time_command("$trtexec", dialect, "$bundle/model.engine", times, shapes=usual)),
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
