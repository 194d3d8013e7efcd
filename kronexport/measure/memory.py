"""Peak memory that one model adds to a fresh process, or that TensorRT's log tells of its engine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kronexport.measure.setting import Setting

TIMEOUT_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class MemoryResult:
    """Bytes of resident memory on top of the process with its runtime imported; of TensorRT those that its log tells.

    ``build_peak_memory_bytes`` is the peak up to the end of the loading, ``peak_memory_bytes`` the peak of loading and
    inferences. Of TensorRT the first is the peak of the builder's allocators, the second what is held once the
    execution context is made. Each is None, with a ``reason``, where it cannot be told. ``method`` says how.
    """

    peak_memory_bytes: int | None
    build_peak_memory_bytes: int | None
    method: str
    reason: str | None
    environment: dict[str, Any]


def measure_memory(model: Path, setting: Setting, iterations: int = 5) -> MemoryResult:
    """Loads ``model`` in a process of its own and runs ``iterations`` inferences after loading.

    The values of the input count as memory.

    Raises:
        KronexportError: As ``Machine.run_agent``.
    """
    job = setting.job("memory", {model.name: model}) | {"iterations": iterations}
    result = setting.machine.run_agent(job, timeout_seconds=TIMEOUT_SECONDS)
    return MemoryResult(
        peak_memory_bytes=result["peak_memory_bytes"],
        build_peak_memory_bytes=result["build_peak_memory_bytes"],
        method=result["method"],
        reason=result["reason"],
        environment=result["environment"],
    )
