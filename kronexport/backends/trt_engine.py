"""An engine built, proven, checked and timed by ``trtexec`` in a place of the machine that has the GPU.

Each step here is a few commands in one folder. It brings all that it needs, so that it can be done again from its
beginning where the connection to a board breaks off (``machines.base.Host``).
"""

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kronexport.backends.profile import Precision, Route
from kronexport.backends.trt_precision import EngineLayer, ProvenPrecision, parse_layers, prove_precision
from kronexport.backends.trt_results import EngineLayerTime, parse_outputs, parse_profile, parse_times
from kronexport.backends.trtexec import (
    Build,
    Dialect,
    Shapes,
    build_command,
    dialect_of,
    memory_command,
    outputs_command,
    profile_command,
    time_command,
)
from kronexport.errors import KronexportError
from kronexport.files import TEMP_PREFIX
from kronexport.machines.place import Command, Place

TAIL: Final = 5
"""Lines of a log that an error shows."""

BUILD_SECONDS: Final = 4 * 3600.0
"""The longest that an engine may be built for: a small board tries thousands of kernels, one after the other."""
RUN_SECONDS: Final = 600.0
"""The longest that a run may take, on top of the time that it is asked to last."""

PROFILE_SECONDS: Final = 5

Outputs = dict[str, NDArray[np.float32]]

_MOVE_SECONDS: Final = 60.0
_TIMING_CACHE: Final = "timing.cache"
_LAYERS: Final = "layers.json"
_OUTPUTS: Final = "outputs.json"
_TIMES: Final = "times.json"
_PROFILE: Final = "profile.json"
_ENGINE: Final = f"{TEMP_PREFIX}built.engine"


@dataclass(frozen=True, slots=True)
class Tool:
    """trtexec of a machine: its path there, and the release of TensorRT that it is of."""

    path: str
    version: str

    @property
    def dialect(self) -> Dialect:
        """How it is spoken to; raises as ``dialect_of``."""
        return dialect_of(self.version)


@dataclass(frozen=True, slots=True)
class Order:
    """What is built. ``asked``: by node, of ``trt_model.asked_precisions``; the rest as of ``Build``."""

    asked: Mapping[str, Precision]
    route: Route
    workspace_mib: int
    shapes: tuple[Shapes, Shapes, Shapes] | None = None


@dataclass(frozen=True, slots=True)
class Built:
    """What trtexec told of an engine while it built it; ``log`` is the end of what it printed."""

    layers: tuple[EngineLayer, ...]
    proven: ProvenPrecision
    log: str


def build_engine(
    place: Place, tool: Tool, model: Path, target: Path, order: Order, *, allow_fallback: bool = False
) -> Built:
    """Build, then prove the precision of each node: an engine that is not what was asked for is not brought here.

    Args:
        place: where it is built, and the only machine that it fits.
        tool: of that machine.
        model: the model.onnx, here.
        target: what the engine is called here; in the place it is kept for the steps to come.
        order: how.
        allow_fallback: as of ``prove_precision``.

    Raises:
        VerificationError: it runs in another precision.
        KronexportError: trtexec could not build it; with the end of its log.
    """
    kept = f"{place.cache}/timing-{tool.version}.cache"
    place.run(("cp", "-f", "--", kept, _TIMING_CACHE), _MOVE_SECONDS)  # the first time there is none
    build = Build(
        place.put(model), _ENGINE, order.route, order.workspace_mib, _TIMING_CACHE, _LAYERS, shapes=order.shapes
    )
    log = run_trtexec(place, build_command(tool.path, tool.dialect, build), "build", BUILD_SECONDS, _ENGINE, _LAYERS)
    _keep_timings(place, kept)
    layers = parse_layers(_text(place, _LAYERS))
    proven = prove_precision(layers, order.asked, allow_fallback=allow_fallback)
    place.take(_ENGINE, target)
    return Built(layers, proven, log)


def infer(place: Place, tool: Tool, engine: Path, feeds: Mapping[str, NDArray[Any]], *, dynamic: bool) -> Outputs:
    """All outputs by name, as float32, for one feed an input of as many samples as the engine takes at once.

    Args:
        place: where it runs.
        tool: of that machine.
        engine: as it is here.
        feeds: by input, of the type that it takes.
        dynamic: whether its batch is.
    """
    files = {name: f"input-{index}.bin" for index, name in enumerate(feeds)}
    for name, file in files.items():
        place.write(file, np.ascontiguousarray(feeds[name]).tobytes())
    shapes = {name: array.shape for name, array in feeds.items()} if dynamic else None
    command = outputs_command(tool.path, tool.dialect, place.put(engine), files, _OUTPUTS, shapes=shapes)
    run_trtexec(place, command, "run", RUN_SECONDS, _OUTPUTS)
    return parse_outputs(_text(place, _OUTPUTS))


def time_engine(
    place: Place, tool: Tool, engine: Path, *, warm_up_ms: int, seconds: int, shapes: Shapes | None
) -> tuple[float, ...]:
    """Milliseconds of computing, one an inference; ``shapes`` as of ``time_command``."""
    command = time_command(
        tool.path,
        tool.dialect,
        place.put(engine),
        _TIMES,
        warm_up_ms=warm_up_ms,
        seconds=seconds,
        shapes=shapes,
    )
    run_trtexec(place, command, "time", RUN_SECONDS + math.ceil(warm_up_ms / 1000) + seconds, _TIMES)
    return parse_times(_text(place, _TIMES), warm_up_ms)


def log_of_one_run(place: Place, tool: Tool, engine: Path, *, shapes: Shapes | None) -> str:
    """The log of a single inference, which says what memory is held; ``shapes`` as of ``time_command``."""
    command = memory_command(tool.path, tool.dialect, place.put(engine), shapes=shapes)
    return run_trtexec(place, command, "run", RUN_SECONDS)


def profile_engine(place: Place, tool: Tool, engine: Path, *, shapes: Shapes | None) -> tuple[EngineLayerTime, ...]:
    """Milliseconds of each layer, of a run of its own; ``shapes`` as of ``time_command``."""
    command = profile_command(
        tool.path, tool.dialect, place.put(engine), _PROFILE, seconds=PROFILE_SECONDS, shapes=shapes
    )
    run_trtexec(place, command, "profile", RUN_SECONDS + PROFILE_SECONDS, _PROFILE)
    return parse_profile(_text(place, _PROFILE))


def run_trtexec(place: Place, command: Command, verb: str, seconds: float, *writes: str) -> str:
    """The end of what it printed; KronexportError with the end of that if it failed.

    The files that it ``writes`` are removed first: one that it left out, on a full disk, is not there of a run before.
    """
    if writes:
        removed = place.run(("rm", "-f", "--", *writes), _MOVE_SECONDS)
        if removed.code:
            raise KronexportError(f"{place.at}{', '.join(writes)}: cannot be removed: {removed.output.strip()}")
    ended = place.run(command, seconds)
    if ended.code:
        lines = [line for line in ended.output.splitlines() if line.strip()]
        errors = [line for line in lines if "[E]" in line] or lines
        raise KronexportError(
            f"{place.at}trtexec cannot {verb} the engine (exit code {ended.code}): " + " | ".join(errors[-TAIL:])
        )
    return ended.output


def _keep_timings(place: Place, kept: str) -> None:
    """For the next build, whole or not at all, whoever else builds here; an engine does not fail for it."""
    folder, _, name = kept.rpartition("/")
    aside = f"{folder}/{TEMP_PREFIX}{secrets.token_hex(4)}-{name}"
    steps = (("mkdir", "-p", "--", folder), ("cp", "-f", "--", _TIMING_CACHE, aside), ("mv", "-f", "--", aside, kept))
    for step in steps:
        if place.run(step, _MOVE_SECONDS).code:
            return


def _text(place: Place, name: str) -> str:
    return place.read(name).decode(errors="replace")
