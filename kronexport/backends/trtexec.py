"""Command lines of ``trtexec``, TensorRT's own tool, for each of its releases: all that drives TensorRT here.

Nothing is left to a default that differs between releases: CUDA graph, spinning and transfers are said in every timing
command, and so is the precision of the build. Source: the option parser of each release (NVIDIA/TensorRT,
samples/common/sampleOptions.cpp); ``tests/backends/data/trtexec_options.json`` has the names.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kronexport.backends.profile import Route
from kronexport.errors import UserInputError
from kronexport.machines.place import Command

Shapes = Mapping[str, tuple[int, ...]]
"""Of inputs by name."""

WARM_UP_MS: Final = 2000
SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one release is spoken to; it holds up to the next one in ``DIALECTS``.

    ``workspace``: the option that bounds the builder's scratch memory, up to its number of MiB. ``build_only``: do not
    run what was built. ``flags``: of the build, by how a precision is reached; a route that is not there is not one of
    the release. ``off``: what undoes a default of timing, where it is on.
    """

    release: str
    workspace: str
    build_only: str
    flags: Mapping[Route, tuple[str, ...]]
    off: Mapping[str, str]


_WEAK: Final[Mapping[Route, tuple[str, ...]]] = {
    "float-onnx": (),
    "fp16-flag": ("--fp16",),
    "fp16-onnx": ("--fp16",),
    "qdq-symmetric": ("--int8",),
}
"""The builder may use a precision; without the flag it refuses a network that has it."""

_TYPED_BY_FLAG: Final[Mapping[Route, tuple[str, ...]]] = {
    "float-onnx": (),
    "fp16-flag": ("--fp16",),
    "fp16-onnx": ("--stronglyTyped",),
    "qdq-symmetric": ("--stronglyTyped",),
}
"""The types of the ONNX are obeyed, where the flag says so."""

_TYPED: Final[Mapping[Route, tuple[str, ...]]] = {"float-onnx": (), "fp16-onnx": (), "qdq-symmetric": ()}
"""The types of the ONNX are obeyed, always."""

_OFF_BY_DEFAULT: Final[Mapping[str, str]] = {}
_ON_BY_DEFAULT: Final[Mapping[str, str]] = {
    "--useCudaGraph": "--noCudaGraph",
    "--useSpinWait": "--noSpinWait",
    "--noDataTransfers": "--includeDataTransfers",
}
_POOL: Final = "--memPoolSize=workspace:"
_ONCE: Final[Command] = ("--warmUp=0", "--duration=0", "--iterations=1", "--avgRuns=1")

DIALECTS: Final = (
    Dialect("8.2", "--workspace=", "--buildOnly", _WEAK, _OFF_BY_DEFAULT),
    Dialect("8.5", _POOL, "--buildOnly", _WEAK, _OFF_BY_DEFAULT),
    Dialect("8.6", _POOL, "--skipInference", _WEAK, _OFF_BY_DEFAULT),
    Dialect("10.3", _POOL, "--skipInference", _TYPED_BY_FLAG, _OFF_BY_DEFAULT),
    Dialect("10.13", _POOL, "--skipInference", _TYPED_BY_FLAG, _OFF_BY_DEFAULT),
    Dialect("10.16", _POOL, "--skipInference", _TYPED_BY_FLAG, _OFF_BY_DEFAULT),
    Dialect("11.0", _POOL, "--skipInference", _TYPED, _ON_BY_DEFAULT),
)


@dataclass(frozen=True, slots=True)
class Build:
    """What is built of what. Paths are those of the machine that builds.

    ``route``: how the model's precision is reached. ``workspace_mib``: the builder's scratch memory. ``timing_cache``:
    what the builder learnt of kernels, kept for the next build. ``layers``: the JSON that proves the precisions.
    ``shapes``: least, usual and greatest of a model whose batch is dynamic; None: they are those of the model.
    """

    onnx: str
    engine: str
    route: Route
    workspace_mib: int
    timing_cache: str
    layers: str
    shapes: tuple[Shapes, Shapes, Shapes] | None = None


def release_numbers(version: str) -> tuple[int, int]:
    """(8, 6) of "8.6.2.3-1+cuda12.2".

    Raises:
        UserInputError: it does not begin with two numbers.
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        raise UserInputError(f"TensorRT {version!r}: expected a release such as 8.6.2")
    return int(found[1]), int(found[2])


def dialect_of(version: str) -> Dialect:
    """That of a release of TensorRT, such as "8.6.2": of the last one in ``DIALECTS`` that is not newer.

    Raises:
        UserInputError: the release is older than all, or of a major release that nobody has looked at.
    """
    numbers = release_numbers(version)
    known = [dialect for dialect in DIALECTS if release_numbers(dialect.release) <= numbers]
    if not known or numbers[0] > release_numbers(DIALECTS[-1].release)[0]:
        raise UserInputError(
            f"TensorRT {version}: its trtexec is not known here; expected {DIALECTS[0].release} to "
            f"{release_numbers(DIALECTS[-1].release)[0]}.x: add a line to DIALECTS in backends/trtexec.py"
        )
    return known[-1]


def build_command(trtexec: str, dialect: Dialect, build: Build) -> Command:
    """Build an engine, and run nothing.

    Raises:
        UserInputError: the release does not reach a precision by that route.
    """
    if build.route not in dialect.flags:
        raise UserInputError(
            f"TensorRT {dialect.release}: no such way to a precision: {build.route}; "
            f"expected {', '.join(dialect.flags)}: precision is in the types of the ONNX alone"
        )
    return (
        trtexec,
        f"--onnx={build.onnx}",
        f"--saveEngine={build.engine}",
        f"--timingCacheFile={build.timing_cache}",
        f"{dialect.workspace}{build.workspace_mib}",
        # Without it, convolutions called fp32 run with 10 bits of mantissa on Ampere and later.
        "--noTF32",
        *dialect.flags[build.route],
        *_range(build.shapes),
        "--profilingVerbosity=detailed",
        f"--exportLayerInfo={build.layers}",
        dialect.build_only,
    )


def time_command(
    trtexec: str,
    dialect: Dialect,
    engine: str,
    times: str,
    *,
    warm_up_ms: int = WARM_UP_MS,
    seconds: int = SECONDS,
    shapes: Shapes | None = None,
) -> Command:
    """Time an engine: CUDA graph, spinning, no transfers, one inference a sample, all samples into ``times``.

    ``shapes``, here and below: those that it runs at if its batch is dynamic.
    """
    pinned = _pinned(dialect, graph=True, spin=True, transfers=False)
    lasting = (f"--warmUp={warm_up_ms}", f"--duration={seconds}", "--avgRuns=1")
    return trtexec, f"--loadEngine={engine}", *_at(shapes), *pinned, *lasting, f"--exportTimes={times}"


def memory_command(trtexec: str, dialect: Dialect, engine: str, *, shapes: Shapes | None = None) -> Command:
    """Run an engine once, as it is timed. Each inference more would be a line more in the log after that of memory."""
    pinned = _pinned(dialect, graph=True, spin=True, transfers=False)
    return trtexec, f"--loadEngine={engine}", *_at(shapes), *pinned, *_ONCE


def profile_command(
    trtexec: str, dialect: Dialect, engine: str, profile: str, *, seconds: int = 10, shapes: Shapes | None = None
) -> Command:
    """Time each layer, in a run of its own: it slows the whole, and does not see into a CUDA graph."""
    pinned = _pinned(dialect, graph=False, spin=True, transfers=False)
    lasting = (f"--warmUp={WARM_UP_MS}", f"--duration={seconds}", "--avgRuns=1")
    return trtexec, f"--loadEngine={engine}", *_at(shapes), *pinned, *lasting, f"--exportProfile={profile}"


def outputs_command(
    trtexec: str,
    dialect: Dialect,
    engine: str,
    inputs: Mapping[str, str],
    outputs: str,
    *,
    shapes: Shapes | None = None,
) -> Command:
    """Run an engine once on given inputs: files of raw numbers by tensor name. The outputs go to JSON."""
    pinned = _pinned(dialect, graph=False, spin=False, transfers=True)
    given = ",".join(f"{name}:{file}" for name, file in inputs.items())
    written = (f"--loadInputs={given}", f"--exportOutput={outputs}")
    return trtexec, f"--loadEngine={engine}", *_at(shapes), *pinned, *_ONCE, *written


def engine_name(sm: str, version: str, precision: str) -> str:
    """``model-sm87-trt8.6.2-int8.engine``: an engine fits one GPU and one release, so its name has both."""
    return f"model-sm{sm.replace('.', '')}-trt{version}-{precision}.engine"


def _pinned(dialect: Dialect, *, graph: bool, spin: bool, transfers: bool) -> Command:
    """Each of the three said aloud; off is said where it is not the release's default."""
    wanted = {"--useCudaGraph": graph, "--useSpinWait": spin, "--noDataTransfers": not transfers}
    return tuple(flag if on else dialect.off[flag] for flag, on in wanted.items() if on or flag in dialect.off)


def _range(shapes: tuple[Shapes, Shapes, Shapes] | None) -> Command:
    if shapes is None:
        return ()
    names = ("minShapes", "optShapes", "maxShapes")
    return tuple(f"--{name}={_in_words(given)}" for name, given in zip(names, shapes, strict=True))


def _at(shapes: Shapes | None) -> Command:
    return () if shapes is None else (f"--shapes={_in_words(shapes)}",)


def _in_words(shapes: Shapes) -> str:
    """``x:1x3x8x8,mask:1x8``."""
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
