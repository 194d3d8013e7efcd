"""What a measurement holds constant: where a model runs and on what input, and for how long it is timed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kronexport.machines.base import Machine
from kronexport.machines.here import HERE
from kronexport.records import InputSpec


@dataclass(frozen=True, slots=True)
class Setting:
    """Where models run and on what.

    Attributes:
        runtime: "onnxruntime" or "openvino".
        threads: Threads of one inference.
        input: The one input that all models have; it gets seeded standard normal values.
        options: Differences from the agent's runtime options.
        seed: Of the input and the bootstrap.
        machine: Where the models run.
    """

    runtime: str
    threads: int
    input: InputSpec
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    machine: Machine = HERE

    def job(self, task: str, models: Mapping[str, Path]) -> dict[str, Any]:
        """The agent's job of ``task`` on ``models`` by name, without what only that task needs."""
        return {
            "task": task,
            "runtime": self.runtime,
            "threads": self.threads,
            "options": dict(self.options),
            "models": [{"name": name, "path": str(path.resolve())} for name, path in models.items()],
            "input": {"name": self.input.name, "shape": list(self.input.shape)},
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True)
class Timing:
    """How long to time.

    Attributes:
        seconds: Timed seconds of each model, in total over all rounds.
        rounds: Rounds that they are spread over; each gives one paired ratio. Fewer than 5 give no verdict.
        warmup_seconds: Untimed seconds of each model before the first round.
    """

    seconds: float = 5.0
    rounds: int = 20
    warmup_seconds: float = 1.0
