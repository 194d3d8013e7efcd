"""manifest.json: what a bundle holds and which device it fits, readable before anything in it is loaded."""

import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kronexport import agent
from kronexport.errors import KronexportError
from kronexport.records import BATCH_SYMBOL, BatchRange

if TYPE_CHECKING:
    import onnx

Backend = Literal["onnxruntime", "openvino", "tensorrt"]

MODEL_FILE = "model.onnx"
GOLDEN_FILE = "golden.npz"
_MAKERS = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxsim", "onnxruntime", "openvino", "numpy", "scipy")
"""Packages on whose versions it depends what a build comes to."""
_STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
_DTYPES = {1: "float32", 10: "float16"}
"""ONNX TensorProto.DataType of an image input, by the name that numpy gives it."""


@dataclass(frozen=True, slots=True)
class InputTensor:
    """The model's only input: static shape [N, C, H, W]."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One output with its static shape."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a device must have.

    ``machine`` lists values of ``platform.machine()``, ``gpu`` names that ``agent.gpus`` tells; None: any. ``sm`` is
    the compute capability of these, where an engine fits one alone.
    """

    runtime: Backend
    version: str
    rule: Literal["minimum", "exact"]
    machine: tuple[str, ...] | None
    gpu: tuple[str, ...] | None = None
    sm: str | None = None

    def fits(self, machine: str, version: str) -> bool:
        """Whether it is for ``machine``, a value of ``platform.machine()``, with that release of the runtime."""
        is_its_kind = self.machine is None or machine in self.machine
        return is_its_kind and agent.serves(version, self.rule, self.version)


@dataclass(frozen=True, slots=True)
class GoldenReference:
    """How the golden data is compared: ||y - y_ref|| / ||y_ref|| at most ``tolerance``."""

    tolerance: float
    file: str = GOLDEN_FILE
    metric: Literal["rel_l2"] = "rel_l2"


@dataclass(frozen=True, slots=True)
class Manifest:
    """manifest.json, key by key.

    ``artifact`` is the file that the runtime loads; None: built on the device. ``runtime_options`` are all that are
    set beside the threads. ``protocol`` is what the figures were measured by, empty where nothing was; ``rebuild`` the
    command that made the bundle. ``dynamic_batch``: how many samples at once model.onnx takes, the shapes of input and
    outputs being those of the usual number; None: as many as the shapes say. ``allow_fallback``: nodes may run in
    another precision than that of the bundle. ``files`` has the SHA-256 of every other
    file; ``write_bundle`` fills it in.
    """

    model: str
    target: str
    backend: Backend
    artifact: str | None
    precision: str
    input: InputTensor
    outputs: tuple[OutputTensor, ...]
    opset: int
    ir_version: int
    threads: int
    runtime_options: dict[str, Any]
    requires: Requirement
    golden: GoldenReference
    kronexport_version: str
    created: str
    rebuild: str
    protocol: Mapping[str, Any]
    versions: dict[str, str]
    dynamic_batch: BatchRange | None = None
    allow_fallback: bool = False
    files: dict[str, str] = field(default_factory=dict)
    schema: Literal[1] = field(default=1, kw_only=True)

    def to_json(self) -> dict[str, Any]:
        """The object that is written; ``schema`` comes first, so that a reader sees it before the rest."""
        value = {"schema": self.schema, **asdict(self)}
        return {**value, "compatibility": agent.compatibility_key(value)}


def requirement(
    backend: Backend,
    version: str,
    machine: tuple[str, ...] | None,
    gpu: tuple[str, ...] | None = None,
    sm: str | None = None,
) -> Requirement:
    """The runtime that a bundle needs, at the version it was built with.

    ONNX and OpenVINO IR are read by every later release, so the version built with is the least; a TensorRT engine
    fits only the very build that made it.
    """
    return Requirement(
        runtime=backend,
        version=version,
        rule="exact" if backend == "tensorrt" else "minimum",
        machine=machine,
        gpu=gpu,
        sm=sm,
    )


def session_options(backend: Backend) -> dict[str, Any]:
    """What a session of the runtime is opened with beside its threads; of TensorRT, build_engine.sh has the flags."""
    session = agent.SESSIONS.get(backend)
    return {} if session is None else dict(session.DEFAULTS)


def build_manifest(
    model_onnx: Path,
    *,
    model: str,
    target: str,
    artifact: str | None,
    precision: str,
    threads: int,
    runtime_options: dict[str, Any],
    requires: Requirement,
    tolerance: float,
    kronexport_version: str,
    rebuild: str,
    protocol: Mapping[str, Any],
    dynamic_batch: BatchRange | None = None,
    allow_fallback: bool = False,
) -> Manifest:
    """The manifest of one bundle; tensors, opset and IR version are read from the file that ships.

    Args:
        model_onnx: The model.onnx that goes into the bundle: static shapes, standard operators only.
        model: What the user built, as given (``sample:resnet20``).
        target: Resolved name of the target.
        artifact: Name of the file that the runtime loads, or None if the device has to build it.
        precision: ``fp32``, ``fp16`` or ``int8``.
        threads: Threads of the runtime that the figures were measured with.
        runtime_options: See ``session_options``.
        requires: See ``requirement``.
        tolerance: Largest relative L2 of the golden outputs.
        kronexport_version: Version of the tool.
        rebuild: The command line that makes this bundle again.
        protocol: How its figures were measured; empty where nothing was.
        dynamic_batch: How many samples at once the file takes; None: its batch is static.
        allow_fallback: Whether nodes may run in another precision.

    Raises:
        KronexportError: The file is not one that may ship: other domains, more than one input, a dynamic shape.
    """
    import onnx  # noqa: PLC0415 - heavy; a manifest is built once, at the end of a run

    loaded = onnx.load(model_onnx, load_external_data=False)
    if dynamic_batch is not None:
        _set_batch(loaded, dynamic_batch.opt)
    return Manifest(
        model=model,
        target=target,
        backend=requires.runtime,
        artifact=artifact,
        precision=precision,
        input=_input_tensor(loaded, model_onnx),
        outputs=tuple(OutputTensor(value.name, _static_shape(value, model_onnx)) for value in loaded.graph.output),
        opset=_standard_opset(loaded, model_onnx),
        ir_version=loaded.ir_version,
        threads=threads,
        runtime_options=runtime_options,
        requires=requires,
        golden=GoldenReference(tolerance),
        kronexport_version=kronexport_version,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        rebuild=rebuild,
        protocol=protocol,
        versions=_versions(),
        dynamic_batch=dynamic_batch,
        allow_fallback=allow_fallback,
    )


def _set_batch(loaded: "onnx.ModelProto", batch: int) -> None:
    """Give the symbolic batch of inputs and outputs its usual size."""
    for value in (*loaded.graph.input, *loaded.graph.output):
        first = value.type.tensor_type.shape.dim[:1]
        if first and first[0].dim_param == BATCH_SYMBOL:
            first[0].dim_value = batch


def _versions() -> dict[str, str]:
    """Of Python and of each maker that is installed."""
    found = {"python": platform.python_version()}
    for name in _MAKERS:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _standard_opset(loaded: "onnx.ModelProto", path: Path) -> int:
    foreign = sorted(
        {f"{node.domain}::{node.op_type}" for node in loaded.graph.node if node.domain not in _STANDARD_DOMAINS}
    )
    if foreign:
        raise KronexportError(
            f"{path}: holds {', '.join(foreign)}; a bundle ships standard operators only: lower it first"
        )
    versions = [entry.version for entry in loaded.opset_import if entry.domain in _STANDARD_DOMAINS]
    if len(versions) != 1:
        raise KronexportError(f"{path}: {len(versions)} standard opsets, expected 1; write the model again")
    return int(versions[0])


def _input_tensor(loaded: "onnx.ModelProto", path: Path) -> InputTensor:
    stored = {tensor.name for tensor in loaded.graph.initializer}
    inputs = [value for value in loaded.graph.input if value.name not in stored]
    if len(inputs) != 1:
        raise KronexportError(f"{path}: {len(inputs)} inputs, expected 1")
    value = inputs[0]
    dtype = _DTYPES.get(value.type.tensor_type.elem_type)
    if dtype is None:
        raise KronexportError(
            f"{path}: input {value.name} has ONNX type {value.type.tensor_type.elem_type}, "
            f"expected one of {', '.join(_DTYPES.values())}"
        )
    return InputTensor(value.name, _static_shape(value, path), dtype)


def _static_shape(value: "onnx.ValueInfoProto", path: Path) -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim
    if not dims or not all(dim.HasField("dim_value") and dim.dim_value > 0 for dim in dims):
        got = [dim.dim_param or dim.dim_value for dim in dims]
        raise KronexportError(
            f"{path}: {value.name} has shape {got}, expected a static one; export with a fixed --input"
        )
    return tuple(int(dim.dim_value) for dim in dims)
