"""A machine with TensorRT: it runs the jobs of ``agent.py`` by ``trtexec``, on engines that it built itself.

Nothing but trtexec is needed there, no numpy and no Python API of TensorRT. What a job comes to has the keys that it
has in every other runtime, so that whoever measures and verifies need not know which it was.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from kronexport import agent
from kronexport.backends.base import agent_errors
from kronexport.backends.trt_engine import (
    Built,
    Order,
    Tool,
    build_engine,
    infer,
    log_of_one_run,
    profile_engine,
    time_engine,
)
from kronexport.backends.trt_results import build_memory, run_memory
from kronexport.backends.trtexec import Shapes, time_command
from kronexport.errors import KronexportError, UserInputError
from kronexport.machines.base import Host
from kronexport.machines.place import Place
from kronexport.records import BatchRange

RUNTIME: Final = "tensorrt"

_PROBE_SECONDS: Final = 120.0
_MEMORY_METHOD: Final = (
    "of trtexec's log, in whole MiB, CPU and GPU added up: build: the peak of TensorRT's allocators; run: what "
    "TensorRT holds once the execution context is made; without what the CUDA context itself takes"
)

Job = Mapping[str, Any]
Result = dict[str, Any]
Round = dict[str, list[float]]
"""Milliseconds of each model."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What is known of an engine: what trtexec told while it was built, and how many samples it takes at once.

    ``is_dynamic``: it has to be told how many.
    """

    built: Built
    batches: BatchRange
    is_dynamic: bool

    def chunk(self, samples: int) -> int:
        """How many of ``samples`` go at once: all where they fit, else as many as is usual."""
        return samples if self.batches.min <= samples <= self.batches.max else self.batches.opt


@dataclass(frozen=True, slots=True)
class TrtMachine:
    """See ``machines.base.Machine``; each step of a job is done again where the connection to ``host`` breaks off.

    ``tool`` is trtexec of ``host``, ``about`` what the host tells of itself.
    """

    host: Host
    tool: Tool
    about: Result
    engines: dict[str, Engine] = field(default_factory=dict)
    """By the SHA-256 of the file."""

    @classmethod
    def of(cls, host: Host) -> Self:
        """Raises ``MissingRuntimeError`` where there is no trtexec."""
        found = host.environment(RUNTIME)
        return cls(host, Tool(found["trtexec"], found["runtime_version"]), found)

    @property
    def place(self) -> str:
        return self.host.place

    @property
    def width(self) -> int:
        return self.host.width

    @property
    def notes(self) -> tuple[str, ...]:
        return self.host.notes

    def environment(self, runtime: str) -> Result:
        return self.about if runtime == RUNTIME else self.host.environment(runtime)

    def build(
        self, model: Path, target: Path, order: Order, batches: BatchRange, *, allow_fallback: bool = False
    ) -> Engine:
        """The engine of ``model`` as the file ``target`` here; raises as ``trt_engine.build_engine``."""

        def steps(place: Place) -> Built:
            return build_engine(place, self.tool, model, target, order, allow_fallback=allow_fallback)

        engine = Engine(self.host.in_folder(steps), batches, order.shapes is not None)
        self.engines[agent.sha256_of(str(target))] = engine
        return engine

    def run_agent(self, job: Job, *, timeout_seconds: float) -> Result:  # noqa: ARG002  each command has its own limit
        tasks: dict[str, Callable[[Job], Result]] = {
            "bench": self._bench,
            "memory": self._memory,
            "infer": self._infer,
            "profile": self._profile,
        }
        if job["task"] not in tasks:
            raise KronexportError(f"{job['task']}: TensorRT runs {', '.join(tasks)} by trtexec, and no other job")
        return {"environment": self.about, **tasks[job["task"]](job), "task": job["task"]}

    def _bench(self, job: Job) -> Result:
        """Alternating rounds of trtexec, all samples kept; a round whose connection broke off is done again."""
        paths = {model["name"]: Path(model["path"]) for model in job["models"]}
        rounds = max(agent.MIN_ROUNDS_FOR_VERDICT, min(job["rounds"], int(job["seconds"])))
        seconds = max(1, round(job["seconds"] / rounds))
        warm_up_ms = round(job["warmup_seconds"] * 1000)
        samples: dict[str, list[list[float]]] = {name: [] for name in paths}
        before = self._state()["after"]
        for turn in range(rounds):
            names = list(paths)[turn % len(paths) :] + list(paths)[: turn % len(paths)]
            one = partial(self._round, [(name, paths[name]) for name in names], job, warm_up_ms, seconds)
            for name, times in self.host.in_folder(one).items():
                samples[name].append(times)
        return {
            "models": agent.latencies(samples),
            "speedups": agent.speedups(samples, job["seed"]),
            "protocol": _protocol(self.tool, job, rounds, seconds, warm_up_ms),
            "environment": {**self._state(), "before": before},
        }

    def _round(self, engines: list[tuple[str, Path]], job: Job, warm_up_ms: int, seconds: int, place: Place) -> Round:
        times = {}
        for name, path in engines:
            shapes = self._shapes(path, job)
            found = time_engine(place, self.tool, path, warm_up_ms=warm_up_ms, seconds=seconds, shapes=shapes)
            times[name] = list(found)
        return times

    def _memory(self, job: Job) -> Result:
        (model,) = job["models"]
        path = Path(model["path"])
        once = partial(log_of_one_run, tool=self.tool, engine=path, shapes=self._shapes(path, job))
        peak, build_peak = run_memory(self.host.in_folder(once)), build_memory(self._engine(path).built.log)
        return {
            "peak_memory_bytes": peak,
            "build_peak_memory_bytes": build_peak,
            "method": _MEMORY_METHOD,
            "reason": None if peak and build_peak else f"not in the log of trtexec {self.tool.version}, or below 1 MiB",
            "iterations": None,
        }

    def _infer(self, job: Job) -> Result:
        (model,) = job["models"]
        path = Path(model["path"])
        engine = self._engine(path)
        with agent_errors():
            feeds = agent.read_npz(job["inputs_npz"])
        count = len(next(iter(feeds.values())))
        chunk = engine.chunk(count)
        if count % chunk:
            raise UserInputError(f"{path.name}: got {count} samples, expected a multiple of the batch {chunk}")
        parts = []
        for start in range(0, count, chunk):
            part = {name: array[start : start + chunk] for name, array in feeds.items()}
            steps = partial(infer, tool=self.tool, engine=path, feeds=part, dynamic=engine.is_dynamic)
            parts.append(self.host.in_folder(steps))
        outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        agent.write_npz(job["outputs_npz"], outputs)
        return {"outputs_npz": job["outputs_npz"], "outputs": list(outputs)}

    def _profile(self, job: Job) -> Result:
        """Microseconds of each layer, and the ONNX nodes that it is made of as far as the engine tells."""
        (model,) = job["models"]
        path = Path(model["path"])
        found = self.host.in_folder(
            partial(profile_engine, tool=self.tool, engine=path, shapes=self._shapes(path, job))
        )
        nodes = {layer.name: layer.nodes for layer in self._engine(path).built.layers}
        return {
            "layers": [
                {
                    "name": layer.name,
                    "nodes": list(nodes.get(layer.name, ())),
                    "us": 1000 * (layer.average_ms if layer.median_ms is None else layer.median_ms),
                }
                for layer in found
            ]
        }

    def _engine(self, path: Path) -> Engine:
        digest = agent.sha256_of(str(path))
        if digest not in self.engines:
            raise KronexportError(f"{path}: no engine that was built on {self.place} in this run; build it there first")
        return self.engines[digest]

    def _shapes(self, path: Path, job: Job) -> Shapes | None:
        """That of the job's input, where the engine has to be told."""
        if not self._engine(path).is_dynamic:
            return None
        return {job["input"]["name"]: tuple(job["input"]["shape"])}

    def _state(self) -> Result:
        """The machine as it is now; its caches are not asked."""
        job = {"task": "probe", "runtime": RUNTIME, "threads": 1}
        found: Result = self.host.run_agent(job, timeout_seconds=_PROBE_SECONDS)["environment"]
        return found


def _protocol(tool: Tool, job: Job, rounds: int, seconds: int, warm_up_ms: int) -> Result:
    """What every timing command had in common; the engines' names are those of files of this run, and left out."""
    command = time_command(tool.path, tool.dialect, "", "", warm_up_ms=warm_up_ms, seconds=seconds)
    return {
        "mode": "trtexec, one inference at a time, device memory to device memory",
        "warmup_seconds": warm_up_ms / 1000,
        "seconds": seconds * rounds,
        "rounds": rounds,
        "seed": job["seed"],
        "order": "interleaved round by round, a process each, the first candidate moves on by one each round",
        "clock": "computeMs of trtexec: the time on the GPU",
        "flags": [word for word in command[1:] if not word.startswith(("--loadEngine", "--exportTimes"))],
        "values": "those that trtexec makes up for the input",
        "threads": 1,
        "input": {job["input"]["name"]: list(job["input"]["shape"])},
        **agent.STATISTICS,
    }
