"""An engine built, proven, checked and timed by ``trtexec``, wherever a command can be run: here, or on a board.

Each step is one command in one folder of the machine that has the GPU. Only names within that folder cross over, so
that a place is three calls: write a file, run a command, read a file.
"""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from kronexport.backends.base import Arrays
from kronexport.backends.profile import Precision, Route
from kronexport.backends.trt_precision import ProvenPrecision, parse_layers, prove_precision
from kronexport.backends.trt_results import LayerTime, parse_outputs, parse_profile, parse_times
from kronexport.backends.trtexec import (
    SECONDS,
    WARM_UP_MS,
    Build,
    Command,
    build_command,
    dialect_of,
    outputs_command,
    profile_command,
    release_numbers,
    time_command,
)
from kronexport.errors import KronexportError, MissingRuntimeError, error_of
from kronexport.files import TEMP_PREFIX

TAIL: Final = 5
"""Lines of a log that an error shows."""

_TIMING_CACHE: Final = "timing.cache"
_LAYERS: Final = "layers.json"


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended, and what it printed."""

    code: int
    output: str


class Place(Protocol):
    """A folder on a machine with TensorRT; ``trtexec`` is its path there."""

    @property
    def trtexec(self) -> str: ...

    def run(self, command: Command) -> Ran:
        """Run a command in the folder and wait for it."""
        ...

    def write(self, name: str, data: bytes) -> None: ...

    def read(self, name: str) -> bytes:
        """KronexportError if there is no such file."""
        ...


@dataclass(frozen=True, slots=True)
class Here:
    """A folder of this machine."""

    folder: Path
    trtexec: str

    def run(self, command: Command) -> Ran:
        try:
            done = subprocess.run(
                command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
            )
        except OSError as error:
            raise MissingRuntimeError(f"{command[0]}: {error.strerror}; run: sudo apt-get install tensorrt") from error
        return Ran(done.returncode, done.stdout.decode(errors="replace"))

    def write(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)

    def read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise KronexportError(f"{self.folder / name}: {error.strerror}; trtexec did not write it") from error


@dataclass(frozen=True, slots=True)
class TrtEngine:
    """An engine in its place. ``version``: the release of TensorRT that is there."""

    place: Place
    name: str
    version: str

    def infer(self, feeds: Mapping[str, NDArray[Any]], batch: int) -> Arrays:
        """All outputs for one feed an input; more samples than ``batch`` run that many at a time."""
        count = len(next(iter(feeds.values())))
        if count % batch:
            raise error_of(2)(f"{self.name}: got {count} samples, expected a multiple of the static batch {batch}")
        parts = [
            self._once({name: values[start : start + batch] for name, values in feeds.items()})
            for start in range(0, count, batch)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def times_ms(self, *, warm_up_ms: int = WARM_UP_MS, seconds: int = SECONDS) -> tuple[float, ...]:
        """Milliseconds of computing, one an inference."""
        command = time_command(
            self.place.trtexec,
            dialect_of(self.version),
            self.name,
            "times.json",
            warm_up_ms=warm_up_ms,
            seconds=seconds,
        )
        run_trtexec(self.place, command, "time")
        return parse_times(_text(self.place, "times.json"), warm_up_ms)

    def profile(self) -> tuple[LayerTime, ...]:
        """Milliseconds of each layer, of a run of its own."""
        run_trtexec(
            self.place,
            profile_command(self.place.trtexec, dialect_of(self.version), self.name, "profile.json"),
            "profile",
        )
        return parse_profile(_text(self.place, "profile.json"))

    def _once(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        files = {name: f"input-{index}.bin" for index, name in enumerate(feeds)}
        for name, file in files.items():
            self.place.write(file, np.ascontiguousarray(feeds[name]).tobytes())
        command = outputs_command(self.place.trtexec, dialect_of(self.version), self.name, files, "outputs.json")
        run_trtexec(self.place, command, "run")
        return dict(parse_outputs(_text(self.place, "outputs.json")))


def build_engine(
    place: Place,
    model: bytes,
    name: str,
    *,
    route: Route,
    asked: Mapping[str, Precision],
    workspace_mib: int,
    allow_fallback: bool = False,
) -> tuple[TrtEngine, ProvenPrecision]:
    """Build, then prove the precision of each node: an engine that is not what was asked for gets no name.

    Args:
        place: where it is built, and the only machine that it fits.
        model: the bytes of model.onnx.
        name: of the engine's file.
        route: how the model's precision is reached.
        asked: by node; of ``trt_model.asked_precisions``.
        workspace_mib: the builder's scratch memory.
        allow_fallback: as of ``prove_precision``.

    Raises:
        VerificationError: it runs in another precision.
        KronexportError: trtexec could not build it; with the end of its log.
    """
    version = installed_release(place)
    place.write("model.onnx", model)
    aside = f"{TEMP_PREFIX}{name}"
    build = Build("model.onnx", aside, route, workspace_mib, _TIMING_CACHE, _LAYERS)
    run_trtexec(place, build_command(place.trtexec, dialect_of(version), build), "build")
    layers = parse_layers(_text(place, _LAYERS))
    proven = prove_precision(layers, asked, allow_fallback=allow_fallback)
    ended = place.run(("mv", "-f", "--", aside, name))
    if ended.code:
        raise KronexportError(f"{name}: cannot be given its name: {ended.output.strip()}")
    return TrtEngine(place, name, version), proven


def installed_release(place: Place) -> str:
    """The release that ``trtexec`` says it is of: "8.6.2" of its banner's "TensorRT v8602".

    Raises:
        KronexportError: it says none.
    """
    ended = place.run((place.trtexec, "--help"))
    found = re.search(r"\[TensorRT v(\d+)\]", ended.output)
    if found is None:
        raise KronexportError(f"{place.trtexec} --help: no release of TensorRT in what it printed; is it trtexec?")
    number = int(found[1])
    unit = 10000 if number >= 100000 else 1000  # noqa: PLR2004  v8602 is 8.6.2, v100300 is 10.3.0
    version = f"{number // unit}.{number % unit // 100}.{number % 100}"
    release_numbers(version)
    return version


def run_trtexec(place: Place, command: Command, verb: str) -> str:
    """What it printed; KronexportError with the end of that if it failed."""
    ended = place.run(command)
    if ended.code:
        lines = [line for line in ended.output.splitlines() if line.strip()]
        errors = [line for line in lines if "[E]" in line] or lines
        raise KronexportError(
            f"trtexec cannot {verb} the engine (exit code {ended.code}): " + " | ".join(errors[-TAIL:])
        )
    return ended.output


def _text(place: Place, name: str) -> str:
    return place.read(name).decode(errors="replace")
