"""Peak memory that one model adds to a fresh process (design: Measuring)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kronexport.measure.process import run_agent

TIMEOUT_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class MemoryResult:
    """Bytes of resident memory on top of the process with its runtime imported.

    ``build_peak_memory_bytes`` is the peak up to the end of the loading, ``peak_memory_bytes`` the peak of loading and
    inferences. Both are None, with a ``reason``, where the kernel cannot reset the peak. ``method`` says how.
    """

    peak_memory_bytes: int | None
    build_peak_memory_bytes: int | None
    method: str
    reason: str | None
    environment: dict[str, Any]


def measure_memory(
    model: Path,
    *,
    runtime: str,
    threads: int,
    input_name: str,
    shape: Sequence[int],
    iterations: int = 5,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> MemoryResult:
    """Loads ``model`` in a process of its own and runs ``iterations`` inferences.

    Args:
        model: The file to load.
        runtime: "onnxruntime" or "openvino".
        threads: Threads of one inference.
        input_name: The model's one input.
        shape: Its static shape [N, C, H, W]; it gets seeded standard normal values, which count as memory.
        iterations: Inferences after loading.
        options: Differences from the agent's runtime options.
        seed: Of the input.

    Raises:
        KronexportError: As ``run_agent``.
    """
    job = {
        "task": "memory",
        "runtime": runtime,
        "threads": threads,
        "options": dict(options or {}),
        "models": [{"name": model.name, "path": str(model.resolve())}],
        "input": {"name": input_name, "shape": list(shape)},
        "iterations": iterations,
        "seed": seed,
    }
    result = run_agent(job, timeout_seconds=TIMEOUT_SECONDS)
    return MemoryResult(
        peak_memory_bytes=result["peak_memory_bytes"],
        build_peak_memory_bytes=result["build_peak_memory_bytes"],
        method=result["method"],
        reason=result["reason"],
        environment=result["environment"],
    )
