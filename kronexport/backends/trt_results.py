"""The JSON files that ``trtexec`` writes: times, profile, outputs. Layers and their precision: ``trt_precision.py``.

Forms: samples/common/sampleReporting.cpp of NVIDIA/TensorRT.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kronexport.errors import KronexportError

_ALLOCATORS: Final = re.compile(r"Peak memory usage of TRT CPU/GPU memory allocators: CPU (\d+) MiB, GPU (\d+) MiB")
_CONTEXT: Final = re.compile(
    r"TensorRT-managed allocation in IExecutionContext creation: CPU [+-]\d+, GPU [+-]\d+, now: CPU (\d+), GPU (\d+) "
    r"\(MiB\)"
)


@dataclass(frozen=True, slots=True)
class EngineLayerTime:
    """Milliseconds of one layer of the engine a run, and its share of the whole in percent."""

    name: str
    average_ms: float
    median_ms: float | None
    percentage: float


def read_json(text: str, option: str) -> Any:
    """What ``trtexec --OPTION`` wrote; KronexportError, with the place, where it is no JSON."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (json.JSONDecodeError, ValueError) as error:
        raise _malformed(option, f"no JSON: {error}", "run trtexec again; is the disk full?") from error


def parse_times(text: str, warm_up_ms: float) -> tuple[float, ...]:
    """Milliseconds of computing, one an inference, of ``--exportTimes``; none dropped but those of the warm-up.

    Some releases write the inferences of the warm-up too: those that began to compute before its end.

    Raises:
        KronexportError: the file isn't of that form, or holds nothing after the warm-up.
    """
    rows = _rows(read_json(text, "exportTimes"), "exportTimes")
    samples = [
        (_number(row, "startComputeMs", "exportTimes"), _number(row, "computeMs", "exportTimes")) for row in rows
    ]
    kept = tuple(compute for start, compute in samples if start >= warm_up_ms)
    if not kept:
        raise _malformed(
            "exportTimes", f"{len(rows)} inferences, none after {warm_up_ms:g} ms of warm-up", "time for longer"
        )
    return kept


def parse_profile(text: str) -> tuple[EngineLayerTime, ...]:
    """Of ``--exportProfile``, layers in the order that they run; its first entry counts the runs.

    Raises:
        KronexportError: the file isn't of that form, or has no layers: a CUDA graph hides them.
    """
    rows = _rows(read_json(text, "exportProfile"), "exportProfile")
    if len(rows) <= 1 or "count" not in rows[0]:
        raise _malformed("exportProfile", f"{len(rows)} entries", "profile without --useCudaGraph")
    return tuple(
        EngineLayerTime(
            _text(row, "name", "exportProfile"),
            _number(row, "averageMs", "exportProfile"),
            _number(row, "medianMs", "exportProfile") if "medianMs" in row else None,
            _number(row, "percentage", "exportProfile"),
        )
        for row in rows[1:]
    )


def parse_outputs(text: str) -> dict[str, NDArray[np.float32]]:
    """Arrays by tensor name of ``--exportOutput``, in the shapes that it says.

    Raises:
        KronexportError: the file isn't of that form, or a tensor has another number of values than its shape.
    """
    rows = _rows(read_json(_with_json_constants(text), "exportOutput"), "exportOutput")
    return {_text(row, "name", "exportOutput"): _array(row) for row in rows}


def _array(row: Mapping[str, Any]) -> NDArray[np.float32]:
    name, dimensions, values = _text(row, "name", "exportOutput"), row.get("dimensions"), row.get("values")
    if not isinstance(dimensions, str) or not isinstance(values, list):
        raise _malformed("exportOutput", f"{name}: no dimensions or no values", "expected both")
    try:
        shape = tuple(int(size) for size in dimensions.split("x") if size)
        array = np.array([math.nan if value is None else value for value in values], dtype=np.float32)
        return array.reshape(shape)
    except ValueError as error:
        raise _malformed(
            "exportOutput", f"{name}: {len(values)} values for dimensions {dimensions}", "run trtexec again"
        ) from error


def _with_json_constants(text: str) -> str:
    """NaN and infinities as C++ prints them become null: JSON has none, and what they were does not matter here."""
    return re.sub(r"(?<=[\[\s,])-?(?:nan|inf)(?=[\s,\]])", "null", text)


def _rows(value: Any, option: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise _malformed(option, type(value).__name__, "expected a list of objects")
    return value


def _number(row: Mapping[str, Any], key: str, option: str) -> float:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _malformed(option, f"{key}: got {value!r}", "expected a number")
    return float(value)


def _text(row: Mapping[str, Any], key: str, option: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise _malformed(option, f"{key}: got {value!r}", "expected text")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _malformed(option: str, got: str, remedy: str) -> KronexportError:
    return KronexportError(f"trtexec --{option}: {got}; {remedy}")


def build_memory(log: str) -> int | None:
    """Bytes at the peak of TensorRT's allocators, of the CPU and of the GPU, in the log of a build.

    None where the log does not say so, or says less than its unit, a MiB. Form: logs of 8.4 to 10, as users show them.
    """
    return _mebibytes(_ALLOCATORS, log)


def run_memory(log: str) -> int | None:
    """Bytes that TensorRT holds, of the CPU and of the GPU, once the execution context is made; None as above."""
    return _mebibytes(_CONTEXT, log)


def _mebibytes(pattern: re.Pattern[str], log: str) -> int | None:
    found = pattern.findall(log)
    return sum(map(int, found[-1])) * 2**20 or None if found else None
