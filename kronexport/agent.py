"""Runs models where they are measured: in a fresh process here, on a board, or as ``run.py`` inside a bundle.

    python agent.py JOB.json RESULT.json      one job: bench, race, memory, infer or probe
    python run.py check | bench | infer       beside a bundle's manifest.json

Standard library, numpy and the runtime only, Python >= 3.6; it imports nothing of kronexport. A probe of TensorRT,
which its own trtexec drives, needs no numpy. Errors end with the exit codes of ``kronexport.errors``: 2 bad input,
3 missing runtime, 4 wrong numbers, 6 bundle damaged or incompatible.
"""

import os
import sys

if __name__ == "__main__":  # nothing that lies beside this file is imported: it has not been checked yet
    sys.path = [entry for entry in sys.path if os.path.realpath(entry) != os.path.dirname(os.path.realpath(__file__))]

import argparse
import contextlib
import functools
import gc
import glob
import hashlib
import importlib
import json
import platform
import re
import shutil
import subprocess
import time
import zipfile
import zlib
from typing import Any, Callable, ClassVar, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

try:
    import numpy as np
except ImportError:
    if __name__ != "__main__":
        raise
    np = None  # type: ignore[assignment]

EXIT_FAILURE, EXIT_INPUT, EXIT_RUNTIME, EXIT_NUMBERS, EXIT_BUNDLE, EXIT_INTERRUPTED = 1, 2, 3, 4, 6, 130

BOOTSTRAP_RESAMPLES = 2000
MIN_ROUNDS_FOR_VERDICT = 5  # fewer paired rounds may all point one way by chance
OVERRUN_FACTOR, OVERRUN_SECONDS = 2, 120  # times what was asked for, and on top of it, after which rounds end early
NOISE_FLOOR = 0.02  # one model opened twice in a process differed by up to 1.7 %, whatever the interval said
SETTLE_SECONDS = 0.02
REST_SECONDS = 0.05  # worker threads spin after their last inference, and keep the next candidate's off their core

Arrays = Dict[str, Any]  # name -> numpy array
Json = Dict[str, Any]
Step = Callable[[], Any]  # one bare inference
Samples = Dict[str, List[List[float]]]  # by model, milliseconds of its inferences, one list a round


class Port(NamedTuple):
    """An input of a model; an open dimension of its shape is None."""

    name: str
    shape: Tuple[Optional[int], ...]
    dtype: str


class AgentError(Exception):
    """Something that the caller can act upon; ``exit_code`` is what the process ends with."""

    def __init__(self, message: str, exit_code: int = EXIT_INPUT) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# --- files ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def write_aside(path: str) -> Iterator[Any]:
    """A binary file that takes the name ``path`` only once it is written whole."""
    aside = f"{path}.{os.getpid()}.part"
    try:
        with open(aside, "wb") as stream:
            yield stream
        os.replace(aside, path)
    finally:
        if os.path.exists(aside):
            os.unlink(aside)


def write_json(path: str, value: Json) -> None:
    """Writes ``value`` as UTF-8 JSON, whole or not at all."""
    with write_aside(path) as stream:
        stream.write(json.dumps(value, indent=1).encode("utf-8"))


def write_npz(path: str, arrays: Arrays) -> None:
    """Writes ``arrays`` as .npz, whole or not at all, whatever the suffix of ``path``."""
    with write_aside(path) as stream:
        np.savez(stream, **arrays)


_UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
"""What numpy raises where a file is none of its own, or damaged."""


def read_npz(path: str) -> Arrays:
    """All arrays of an .npz; object arrays are refused, for they would run code."""
    try:
        # numpy leaves the file open when it fails, so it is given an open one
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (*_UNREADABLE, AttributeError, TypeError) as error:  # the last two: np.load gave an array, it is an .npy
        raise AgentError(f"{path}: not a readable .npz of plain arrays: {error}") from error


def sha256_of(path: str) -> str:
    """Hex digest of a file's bytes, read block by block."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


# --- sessions -------------------------------------------------------------------------------------------------


class OnnxRuntimeSession:
    """A model in ONNX Runtime's CPU provider: sequential, ``threads`` intra-op threads, one inter-op thread."""

    DEFAULTS: ClassVar[Json] = {"graph_optimization": "all", "spinning": True}
    LEVELS: ClassVar[Json] = {
        "all": "ORT_ENABLE_ALL",
        "extended": "ORT_ENABLE_EXTENDED",
        "basic": "ORT_ENABLE_BASIC",
        "disabled": "ORT_DISABLE_ALL",
    }

    def __init__(self, path: str, threads: int, options: Json) -> None:
        ort: Any = _import_runtime("onnxruntime")
        settings = ort.SessionOptions()
        level = self.LEVELS.get(options["graph_optimization"])
        if level is None:
            raise AgentError(
                f"options: graph_optimization: got {options['graph_optimization']!r}; use one of {sorted(self.LEVELS)}"
            )
        settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(options["spinning"])))
        session = _loaded(path, lambda: ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"]))
        self._session = session
        self.inputs = [
            Port(port.name, tuple(dim if isinstance(dim, int) else None for dim in port.shape), _dtype(port.type))
            for port in session.get_inputs()
        ]
        self.threads = threads
        self.outputs = [port.name for port in session.get_outputs()]
        self.options = dict(options, providers=session.get_providers(), execution_mode="sequential", inter_op_threads=1)

    def step(self, feeds: Arrays) -> Step:
        """One bare inference on ``feeds``, ready to be timed."""
        return functools.partial(self._session.run, self.outputs, feeds)

    def run(self, feeds: Arrays) -> Arrays:
        check_feeds(self.inputs, feeds)
        values = self._session.run(self.outputs, feeds)
        return {name: values[index] for index, name in enumerate(self.outputs)}


class OpenVinoSession:
    """A model (.onnx or .xml) in OpenVINO's CPU plugin: latency mode, one stream, the precision that was asked for."""

    DEFAULTS: ClassVar[Json] = {"inference_precision": "f32"}
    RECORDED = (
        "INFERENCE_NUM_THREADS",
        "NUM_STREAMS",
        "PERFORMANCE_HINT",
        "EXECUTION_MODE_HINT",
        "ENABLE_CPU_PINNING",
        "ENABLE_HYPER_THREADING",
        "SCHEDULING_CORE_TYPE",
    )

    def __init__(self, path: str, threads: int, options: Json) -> None:
        ov: Any = _import_runtime("openvino")
        asked = options["inference_precision"]
        config = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": asked,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        core = ov.Core()
        network = _loaded(path, lambda: core.read_model(path))
        compiled = _loaded(path, lambda: core.compile_model(network, "CPU", config))
        got = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if got != asked:
            raise AgentError(f"{path}: OpenVINO runs in {got}, asked for {asked}; use a precision that this CPU has")
        self._request = compiled.create_infer_request()
        self.inputs = [
            Port(port.any_name, _openvino_shape(port), port.element_type.to_dtype().name) for port in compiled.inputs
        ]
        self.threads = threads
        self.outputs = [port.any_name for port in network.outputs]  # where nodes were fused the compiled has others too
        supported = compiled.get_property("SUPPORTED_PROPERTIES")
        self.options = {name: str(compiled.get_property(name)) for name in self.RECORDED if name in supported}
        self.options.update(options)

    def step(self, feeds: Arrays) -> Step:
        """One bare inference on ``feeds``, ready to be timed; no copies that the runtime does not need."""
        return functools.partial(self._request.infer, feeds, share_inputs=True, share_outputs=True)

    def run(self, feeds: Arrays) -> Arrays:
        check_feeds(self.inputs, feeds)
        values = self._request.infer(feeds)
        return {name: np.array(values[index]) for index, name in enumerate(self.outputs)}


SESSIONS: Dict[str, Any] = {"onnxruntime": OnnxRuntimeSession, "openvino": OpenVinoSession}


def open_session(runtime: str, path: str, threads: int, options: Optional[Json] = None) -> Any:
    """A loaded model with ``inputs`` [Port], ``outputs`` [name], ``threads``, ``options`` in force, ``run``, ``step``.

    Args:
        runtime: "onnxruntime" or "openvino".
        path: The .onnx, or for OpenVINO also the .xml, to load.
        threads: Threads of one inference; 0 leaves the number to the runtime.
        options: Differences from the session class's DEFAULTS.

    Raises:
        AgentError: Exit code 2 for bad arguments, 3 for a missing runtime, 1 for a model that does not load.
    """
    _check_runtime(runtime)
    session_class = SESSIONS[runtime]
    unknown = sorted(set(options or {}) - set(session_class.DEFAULTS))
    if unknown:
        raise AgentError(f"options: {runtime} does not know {unknown}; it takes {sorted(session_class.DEFAULTS)}")
    if threads < 0:
        raise AgentError(f"threads: got {threads}; use 1 or more, or 0 for the runtime's own choice")
    if not os.path.isfile(path):
        raise AgentError(f"{path}: no such model file")
    return session_class(path, threads, dict(session_class.DEFAULTS, **(options or {})))


def runtime_version(runtime: str) -> str:
    """The version the runtime itself tells, build suffix included; AgentError with exit code 3 if it is missing.

    Of "tensorrt" it is what trtexec says, so that nothing is imported.
    """
    return trtexec_release() if runtime == "tensorrt" else str(_import_runtime(runtime).__version__)


TRTEXEC_ON_JETPACK = "/usr/src/tensorrt/bin/trtexec"
TRTEXEC_SECONDS = 60.0


def trtexec_path() -> Optional[str]:
    """TensorRT's own tool on this machine, in PATH or where JetPack has it."""
    return shutil.which("trtexec") or (TRTEXEC_ON_JETPACK if os.path.isfile(TRTEXEC_ON_JETPACK) else None)


def trtexec_release() -> str:
    """The release of TensorRT that trtexec is of: "8.6.2" of its banner's "TensorRT v8602".

    Raises:
        AgentError: Exit code 3: it is not here, or tells none.
    """
    path = trtexec_path()
    if path is None:
        raise AgentError(
            f"trtexec is neither in PATH nor at {TRTEXEC_ON_JETPACK}; run: sudo apt-get install libnvinfer-bin",
            EXIT_RUNTIME,
        )
    try:
        said = subprocess.run(
            [path, "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TRTEXEC_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise AgentError(f"{path}: {error}; run: sudo apt-get install libnvinfer-bin", EXIT_RUNTIME) from error
    found = re.search(r"\[TensorRT v(\d+)\]", said.stdout.decode("utf-8", "replace"))
    if found is None:
        raise AgentError(f"{path} --help: no release of TensorRT in what it printed; is it trtexec?", EXIT_RUNTIME)
    number = int(found.group(1))
    unit = 10000 if number >= 100000 else 1000  # noqa: PLR2004  v8602 is 8.6.2, v100300 is 10.3.0
    return f"{number // unit}.{number % unit // 100}.{number % 100}"


def check_feeds(inputs: Sequence[Any], feeds: Arrays) -> None:
    """AgentError unless ``feeds`` has exactly the model's inputs, each of its shape and dtype."""
    names = [port.name for port in inputs]
    if sorted(feeds) != sorted(names):
        raise AgentError(f"inputs: got {sorted(feeds)}; the model takes {sorted(names)}")
    for port in inputs:
        shape, dtype = feeds[port.name].shape, feeds[port.name].dtype.name
        fits = len(shape) == len(port.shape) and all(
            port.shape[axis] in (None, size) for axis, size in enumerate(shape)
        )
        if not fits or dtype != port.dtype:
            raise AgentError(
                f"input {port.name}: got {dtype} {list(shape)}; the model takes {port.dtype} {list(port.shape)}"
            )


def infer(session: Any, feeds: Arrays, most: Optional[int] = None) -> Arrays:
    """Outputs for any number of samples: a model of fixed batch N takes them N at a time, another ``most`` of them."""
    port = session.inputs[0]
    samples = feeds[port.name].shape[0] if port.name in feeds and feeds[port.name].ndim else None
    batch = port.shape[0] if port.shape else None
    chunk = batch or most
    if samples is None or chunk is None or samples <= chunk:
        return dict(session.run(feeds))
    if batch is not None and samples % batch:
        raise AgentError(
            f"input {port.name}: got {samples} samples; the model takes a multiple of its batch of {batch}"
        )
    parts = [
        session.run({name: array[start : start + chunk] for name, array in feeds.items()})
        for start in range(0, samples, chunk)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in session.outputs}


def _check_runtime(name: str) -> None:
    if name not in SESSIONS:
        raise AgentError(f"runtime: got {name!r}; use one of {sorted(SESSIONS)}")


def _import_runtime(name: str) -> Any:
    _check_runtime(name)  # a job or a manifest must not make this file import just anything
    if np is None:
        raise AgentError("numpy is not installed; run: python -m pip install numpy", EXIT_RUNTIME)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise AgentError(
            f"{name} is not installed ({error}); run: python -m pip install {name}", EXIT_RUNTIME
        ) from error


def _loaded(path: str, load: Callable[[], Any]) -> Any:
    return _attempted(path, "load", load)


def _attempted(path: str, verb: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # each runtime raises classes of its own
        raise AgentError(f"{path}: the runtime cannot {verb} this model: {error}", EXIT_FAILURE) from error


def _dtype(ort_type: str) -> str:
    """The numpy name of ONNX Runtime's type, as float32 of tensor(float)."""
    name = ort_type[len("tensor(") : -1]
    return {"float": "float32", "double": "float64"}.get(name, name)


def _openvino_shape(port: Any) -> Tuple[Optional[int], ...]:
    return tuple(None if dim.is_dynamic else dim.get_length() for dim in port.partial_shape)


# --- statistics -----------------------------------------------------------------------------------------------


def latency_stats(samples_ms: Sequence[float]) -> Json:
    """n, min, mean, std (n - 1; 0 for one sample) and linearly interpolated percentiles, nothing dropped."""
    values = np.asarray(samples_ms, dtype=np.float64)
    p50, p90, p95, p99 = np.percentile(values, [50, 90, 95, 99])
    return {
        "n": len(values),
        "min": float(values.min()),
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "p50": float(p50),
        "p90": float(p90),
        "p95": float(p95),
        "p99": float(p99),
    }


def paired_speedup(baseline: Sequence[Sequence[float]], candidate: Sequence[Sequence[float]], seed: int = 0) -> Json:
    """Median over rounds of (baseline's median / candidate's median), with a bootstrap 95 % interval over rounds.

    The two of a pair ran within one round, so that what slows the machine for longer than a round falls on both; the
    round, not the inference, is resampled, because inferences of one round are not independent. A verdict needs the
    whole interval beyond NOISE_FLOOR, since two sessions of one model differ by about as much for as long as they live.

    Args:
        baseline: Milliseconds, one list a round.
        candidate: The same, with as many rounds.
        seed: Of the bootstrap.
    """
    ratios = np.array([np.median(samples) / np.median(candidate[turn]) for turn, samples in enumerate(baseline)])
    random = np.random.RandomState(seed)  # not Generator: a board's numpy may be older
    resampled = ratios[random.randint(0, len(ratios), (BOOTSTRAP_RESAMPLES, len(ratios)))]
    low, high = (float(bound) for bound in np.percentile(np.median(resampled, axis=1), [2.5, 97.5]))
    verdict = "within noise"
    if len(ratios) >= MIN_ROUNDS_FOR_VERDICT:
        verdict = "faster" if low > 1 + NOISE_FLOOR else "slower" if high < 1 - NOISE_FLOOR else verdict
    return {"median": float(np.median(ratios)), "ci95": [low, high], "verdict": verdict}


def rel_l2(values: Any, reference: Any) -> float:
    """||y - y_ref|| / ||y_ref|| in float64; infinite against a zero reference that is not met exactly."""
    reference = np.asarray(reference, dtype=np.float64)
    distance = float(np.linalg.norm(np.asarray(values, dtype=np.float64) - reference))
    norm = float(np.linalg.norm(reference))
    if norm == 0:
        return distance if distance == 0 else float("inf")
    return distance / norm


# --- the machine ----------------------------------------------------------------------------------------------


def _read_text(path: str) -> Optional[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip("\x00\n ") or None
    except OSError:
        return None


def _read_each(pattern: str) -> List[str]:
    texts = (_read_text(path) for path in sorted(glob.glob(pattern)))
    return [text for text in texts if text is not None]


def _cpuinfo(field: str) -> List[str]:
    return re.findall(rf"^{field}\s*:\s*(.+)$", _read_text("/proc/cpuinfo") or "", re.MULTILINE)


CPU_FEATURES = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "asimdhp",
    "i8mm",
    "bf16",
    "sve",
)


def _cpu_model() -> Optional[str]:
    names = _cpuinfo("model name")
    return names[0] if names else _read_text("/proc/device-tree/model")


def _cpu_features() -> List[str]:
    """The instruction sets that decide which kernels a runtime has: a model's name alone does not tell them."""
    found = set((_cpuinfo("flags") or _cpuinfo("Features") or [""])[0].split())
    return [name for name in CPU_FEATURES if name in found]


def _clocks_mhz() -> Optional[List[float]]:
    kilohertz = _read_each("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
    return [int(text) / 1000 for text in kilohertz] or [float(text) for text in _cpuinfo("cpu MHz")] or None


def _temperatures_c() -> Optional[Json]:
    celsius = {}
    for zone in sorted(glob.glob("/sys/class/thermal/thermal_zone*")):
        text = _read_text(os.path.join(zone, "temp"))
        if text is not None and text.lstrip("-").isdigit():
            name = _read_text(os.path.join(zone, "type")) or "zone"
            celsius[f"{os.path.basename(zone)} {name}"] = int(text) / 1000
    return celsius or None


def _load_average() -> Optional[List[float]]:
    try:
        return list(os.getloadavg())
    except (AttributeError, OSError):  # not on Windows
        return None


def _affinity() -> Optional[List[int]]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _power_mode() -> Optional[str]:
    """A Jetson's mode by its own tool, else by that tool's file; elsewhere the firmware's profile."""
    tool = shutil.which("nvpmodel")
    if tool is not None:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            said = subprocess.run(
                [tool, "-q"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10, check=True
            )
            found = re.search(r"^NV Power Mode:\s*(.+)$", said.stdout.decode("utf-8", "replace"), re.MULTILINE)
            if found:
                return found.group(1).strip()
    return _read_text("/var/lib/nvpmodel/status") or _read_text("/sys/firmware/acpi/platform_profile")


def _compatible() -> List[str]:
    """The board and its chip as the device tree names them, such as ``nvidia,tegra234``; empty where there is none."""
    return [name for name in (_read_text("/proc/device-tree/compatible") or "").split("\x00") if name]


def _device_clocks_mhz() -> Optional[Json]:
    """By device those that the kernel scales beside the cores': on a Jetson its GPU and memory."""
    found = {}
    for path in sorted(glob.glob("/sys/class/devfreq/*/cur_freq")):
        text = _read_text(path)
        if text is not None and text.isdigit():
            found[os.path.basename(os.path.dirname(path))] = int(text) / 1e6
    return found or None


def machine_state() -> Json:
    """What changes while one measures: load averages (1, 5, 15 min), clocks, temperatures; null where unreadable."""
    return {
        "load_average": _load_average(),
        "clocks_mhz": _clocks_mhz(),
        "device_clocks_mhz": _device_clocks_mhz(),
        "temperatures_c": _temperatures_c(),
    }


def machine_environment(runtime: str, threads: int, options: Json, before: Json) -> Json:
    """The ground a measurement stands on; ``before`` is the machine_state when it began. Null where unreadable."""
    return {
        "cpu_model": _cpu_model(),
        "cpu_features": _cpu_features(),
        "machine": platform.machine(),
        "logical_cores": os.cpu_count(),
        "affinity": _affinity(),
        "cpu_quota": _read_text("/sys/fs/cgroup/cpu.max"),
        "threads": threads,
        "governor": sorted(set(_read_each("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor"))) or None,
        "power_mode": _power_mode(),
        "board": _read_text("/sys/firmware/devicetree/base/model"),
        "compatible": _compatible(),
        "jetson_linux": _read_text("/etc/nv_tegra_release"),
        "before": before,
        "after": machine_state(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": None if np is None else np.__version__,
        "trtexec": trtexec_path(),
        "runtime": runtime,
        "runtime_version": runtime_version(runtime),
        "runtime_options": options,
    }


# --- tasks ----------------------------------------------------------------------------------------------------


def random_feeds(session: Any, name: str, shape: Sequence[int], seed: int) -> Arrays:
    """Seeded standard normal values for the one input ``name``, in the dtype that the model takes there."""
    dtypes = {port.name: port.dtype for port in session.inputs}
    values = np.random.RandomState(seed).standard_normal(tuple(shape))  # not Generator: a board's numpy may be older
    return {name: values.astype(dtypes.get(name, "float32"))}


def bench(sessions: Dict[str, Any], feeds: Dict[str, Arrays], timing: Json) -> Json:
    """Interleaved closed-loop latencies of ``sessions``; the first is the baseline of every speed-up.

    Args:
        sessions: Loaded models by name.
        feeds: Inputs of each, by the same names.
        timing: warmup_seconds and seconds (of each model, in total over all rounds), rounds, seed.

    Returns:
        {"models": [{"name", "latency_ms", "samples_ms": one list a round}], "speedups": by name, "protocol"}.
    """
    _check_timing(timing)
    steps = {name: session.step(feeds[name]) for name, session in sessions.items()}
    for step in steps.values():
        _timed(step, timing["warmup_seconds"])
    threads = next(iter(sessions.values())).threads
    with _no_garbage_collection():
        samples = _interleaved(steps, timing["rounds"], timing["seconds"] / timing["rounds"], _rest_seconds(threads))
    return {
        "models": latencies(samples),
        "speedups": speedups(samples, timing["seed"]),
        "protocol": dict(
            _protocol(timing, threads),
            rounds=len(next(iter(samples.values()))),
            threads=threads,
            input=_shapes(next(iter(feeds.values()))),
        ),
    }


def _shapes(feeds: Arrays) -> Json:
    return {name: list(array.shape) for name, array in feeds.items()}


def race(loads: Dict[str, Callable[[], Step]], timing: Json, threads: int) -> Json:
    """Interleaved latencies of many models; those that fail are set aside, and clear losers drop out.

    What counts is the fastest inference of each round: where other programs run too, an inference that outlasts a slice
    of the scheduler is interrupted and a shorter one is not, so that medians flatter whatever is short. After
    ``drop_after`` rounds, and after each one from there on, models leave whose median of these is above
    ``drop_factor`` times the least; the first, against which all are paired, stays. What has left is unloaded.

    Args:
        loads: By name, what loads a model and gives its step; called once, just before the model's warm-up.
        timing: As of ``bench``, with drop_after and drop_factor.
        threads: Threads of one inference.

    Returns:
        As ``bench``, but: "speedups" is of the fastest of each round, "floor_ms" their median in each of "models", a
        model has as many lists of samples as it had rounds, and "failed" is {name: reason}.

    Raises:
        AgentError: The first model fails, or another one for what it is not to blame for.
    """
    _check_timing(timing)
    racing, failed = _loaded_steps(loads, timing["warmup_seconds"])
    reference = next(iter(racing))
    samples: Samples = {name: [] for name in racing}
    with _no_garbage_collection():
        for turn in range(timing["rounds"]):
            _one_round(racing, turn, timing["seconds"] / timing["rounds"], samples, _rest_seconds(threads))
            if turn + 1 >= timing["drop_after"]:
                for name in _clear_losers({name: samples[name] for name in racing}, timing["drop_factor"]):
                    if name != reference:
                        del racing[name]
    models = [dict(model, floor_ms=_floor(model["samples_ms"])) for model in latencies(samples)]
    fastest = {name: [[min(part)] for part in parts] for name, parts in samples.items()}
    return {
        "models": models,
        "speedups": speedups(fastest, timing["seed"]),
        "failed": failed,
        "protocol": dict(
            _protocol(timing, threads),
            drop_after=timing["drop_after"],
            drop_factor=timing["drop_factor"],
            speedup="median over rounds of baseline's fastest / candidate's fastest of that round",
        ),
    }


def _loaded_steps(
    loads: Dict[str, Callable[[], Step]], warmup_seconds: float
) -> Tuple[Dict[str, Step], Dict[str, str]]:
    """The warm steps of the models that the runtime takes, and of the others why it does not; not of the first."""
    steps: Dict[str, Step] = {}
    failed: Dict[str, str] = {}
    for name, load in loads.items():
        try:
            steps[name] = load()
        except AgentError as error:
            if error.exit_code != EXIT_FAILURE or not steps:
                raise
            failed[name] = str(error)
        else:
            _timed(steps[name], warmup_seconds)
    return steps, failed


def _clear_losers(samples: Samples, factor: float) -> List[str]:
    floors = {name: _floor(parts) for name, parts in samples.items()}
    bound = factor * min(floors.values())
    return [name for name, floor in floors.items() if floor > bound]


def _floor(parts: Sequence[Sequence[float]]) -> float:
    """Median over rounds of the fastest inference of each."""
    return float(np.median([min(part) for part in parts]))


def latencies(samples: Samples) -> List[Json]:
    """What a result says of each model, in the order of ``samples``."""
    return [
        {"name": name, "latency_ms": latency_stats([ms for part in parts for ms in part]), "samples_ms": parts}
        for name, parts in samples.items()
    ]


def speedups(samples: Samples, seed: int) -> Json:
    """``paired_speedup`` of each model over the first, in the rounds that it took part in."""
    names = list(samples)
    baseline = samples[names[0]]
    return {name: paired_speedup(baseline[: len(samples[name])], samples[name], seed) for name in names[1:]}


def _interleaved(steps: Dict[str, Step], rounds: int, seconds: float, rest: float) -> Samples:
    """``rounds`` rounds of all candidates; fewer, but enough for a verdict, where one inference outlasts its turn."""
    samples: Samples = {name: [] for name in steps}
    asked = rounds * len(steps) * (seconds + SETTLE_SECONDS + rest)
    end = time.perf_counter() + OVERRUN_FACTOR * asked + OVERRUN_SECONDS
    for turn in range(rounds):
        if turn >= MIN_ROUNDS_FOR_VERDICT and time.perf_counter() > end:
            break
        _one_round(steps, turn, seconds, samples, rest)
    return samples


def _rest_seconds(threads: int) -> float:
    """How long nothing runs between two candidates, each of which has ``threads`` threads of its own."""
    return REST_SECONDS if threads > 1 else 0.0


def _one_round(steps: Dict[str, Step], turn: int, seconds: float, samples: Samples, rest: float) -> None:
    """Times every candidate for ``seconds`` after a ``rest``; the one that begins moves on by one each round."""
    names = list(steps)
    first = turn % len(names)
    for name in names[first:] + names[:first]:
        time.sleep(rest)
        _timed(steps[name], SETTLE_SECONDS)
        samples[name].append(_timed(steps[name], seconds))


def _timed(step: Step, seconds: float) -> List[float]:
    """Milliseconds of back-to-back inferences until ``seconds`` are over, at least one."""
    clock = time.perf_counter
    samples: List[float] = []
    end = clock() + seconds
    stop = start = clock()
    while not samples or stop < end:
        start = clock()
        step()
        stop = clock()
        samples.append((stop - start) * 1000)
    return samples


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


_TIMING_LEAST = {"warmup_seconds": 0, "seconds": 1e-3, "rounds": 1, "seed": 0, "drop_after": 1, "drop_factor": 1}


def _check_timing(timing: Json) -> None:
    for name, least in _TIMING_LEAST.items():
        if name in timing and not timing[name] >= least:
            raise AgentError(f"{name}: got {timing[name]}; use {least} or more")


STATISTICS: Json = {
    "noise_floor": NOISE_FLOOR,
    "statistics": "all samples kept, none dropped; percentiles interpolated linearly; std with n - 1",
    "speedup": "median over rounds of baseline's median / candidate's median of that round",
    "ci95": f"percentile bootstrap over rounds, {BOOTSTRAP_RESAMPLES} resamples",
    "verdict": f"interval wholly above {1 + NOISE_FLOOR:g} or below {1 - NOISE_FLOOR:g}, of at least "
    f"{MIN_ROUNDS_FOR_VERDICT} rounds; else within noise",
}
"""Of every protocol: what is made of the samples."""


def _protocol(timing: Json, threads: int) -> Json:
    return {
        "mode": "closed loop, one inference at a time, host memory to host memory",
        "warmup_seconds": timing["warmup_seconds"],
        "seconds": timing["seconds"],
        "rounds": timing["rounds"],
        "seed": timing["seed"],
        "order": "interleaved round by round, the first candidate moves on by one each round",
        "rest_seconds": _rest_seconds(threads),
        "settle_seconds": SETTLE_SECONDS,
        "settle": "a rest and then untimed inferences at the start of each candidate's turn in a round",
        "clock": "time.perf_counter, garbage collection off",
        **STATISTICS,
    }


def _status_bytes(field: str) -> Optional[int]:
    found = re.search(rf"^{field}:\s*(\d+) kB", _read_text("/proc/self/status") or "", re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _reset_peak() -> Optional[str]:
    """Sets VmHWM back to VmRSS; returns why that is not possible, or None."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as stream:
            stream.write("5")
    except OSError as error:
        return f"the peak cannot be reset: {error}"
    if _status_bytes("VmHWM") is None or _status_bytes("VmRSS") is None:
        return "/proc/self/status has no VmHWM and VmRSS"
    return None


def memory(load: Callable[[], Tuple[Any, Arrays]], iterations: int) -> Json:
    """Peak resident memory that loading (``load`` gives session and feeds) and ``iterations`` inferences add.

    To be called in a fresh process with the runtime imported. ``build_peak_memory_bytes`` is the peak up to the end
    of the loading; both are None, with a ``reason``, where the kernel cannot reset the peak.
    """
    gc.collect()
    reason = _reset_peak()
    at_reset = _status_bytes("VmRSS")
    session, feeds = load()
    build_peak = _status_bytes("VmHWM")
    step = session.step(feeds)
    for _ in range(iterations):
        step()
    peak = _status_bytes("VmHWM")
    known = reason is None and at_reset is not None and build_peak is not None and peak is not None
    return {
        "peak_memory_bytes": (peak or 0) - (at_reset or 0) if known else None,
        "build_peak_memory_bytes": (build_peak or 0) - (at_reset or 0) if known else None,
        "method": "fresh process; VmHWM - VmRSS at the reset (5 into /proc/self/clear_refs, after the imports)",
        "iterations": iterations,
        "reason": reason,
        "runtime_options": session.options,
    }


# --- jobs -----------------------------------------------------------------------------------------------------

_COMMON_KEYS = {"task", "runtime", "threads", "options", "models"}
_BENCH_KEYS = {"warmup_seconds", "seconds", "rounds", "seed"}
_RACE_KEYS = _BENCH_KEYS | {"drop_after", "drop_factor"}
_JOB_KEYS = {
    "bench": _COMMON_KEYS | _BENCH_KEYS,
    "race": _COMMON_KEYS | _RACE_KEYS,
    "memory": _COMMON_KEYS | {"iterations", "seed"},
    "infer": _COMMON_KEYS | {"outputs_npz", "most"},
    "probe": {"task", "runtime", "threads"},
}
_INPUT_KEYS = {"input", "inputs_npz"}


def run_job(job: Json) -> Json:
    """The result of one job; see the module's tests and ``kronexport.measure`` for its keys.

    Raises:
        AgentError: For a job that cannot be read (exit code 2), and whatever its task raises.
    """
    _check_job(job)
    before = machine_state()
    result, options = _TASKS[job["task"]](job)
    environment = machine_environment(job["runtime"], job["threads"], options, before)
    return dict(result, task=job["task"], environment=environment)


def _check_job(job: Json) -> None:
    task = job.get("task") if isinstance(job, dict) else None
    if task not in _JOB_KEYS:
        raise AgentError(f"job: task: got {task!r}; use one of {sorted(_JOB_KEYS)}")
    missing = sorted(_JOB_KEYS[task] - set(job))
    unknown = sorted(set(job) - _JOB_KEYS[task] - _INPUT_KEYS)
    if missing or unknown:
        raise AgentError(f"job: {task}: missing keys {missing}, unknown keys {unknown}")
    if task != "probe" and len(_INPUT_KEYS & set(job)) != 1:
        raise AgentError(f"job: {task}: give exactly one of {sorted(_INPUT_KEYS)}")
    if job["threads"] < 1:
        raise AgentError(f"job: threads: got {job['threads']}; a measurement names its threads: use 1 or more")
    if task == "probe":
        return
    if not job["models"] or (task not in ("bench", "race") and len(job["models"]) != 1):
        raise AgentError(
            f"job: {task}: got {len(job['models'])} models; bench and race take one or more, the others exactly one"
        )
    names = [model["name"] for model in job["models"]]
    if len(set(names)) != len(names):
        raise AgentError(f"job: models: a name comes twice in {names}; each needs its own")


def _open_model(job: Json, model: Json) -> Any:
    return open_session(job["runtime"], model["path"], job["threads"], job["options"])


def _job_feeds(job: Json, session: Any) -> Arrays:
    if "inputs_npz" in job:
        return read_npz(job["inputs_npz"])
    return random_feeds(session, job["input"]["name"], job["input"]["shape"], job.get("seed", 0))


def _step_feeds(job: Json, session: Any) -> Arrays:
    feeds = _job_feeds(job, session)
    check_feeds(session.inputs, feeds)  # a bare step does not
    return feeds


def _bench_job(job: Json) -> Tuple[Json, Json]:
    sessions = {model["name"]: _open_model(job, model) for model in job["models"]}
    feeds = {name: _step_feeds(job, session) for name, session in sessions.items()}
    return bench(sessions, feeds, {name: job[name] for name in _BENCH_KEYS}), next(iter(sessions.values())).options


def _race_job(job: Json) -> Tuple[Json, Json]:
    options: List[Json] = []  # as in force, of each model that loads

    def load(model: Json) -> Step:
        session = _open_model(job, model)
        options.append(session.options)
        step: Step = session.step(_step_feeds(job, session))
        _attempted(model["path"], "run", step)  # a runtime may find out only now what it cannot do
        return step

    loads: Dict[str, Callable[[], Step]] = {model["name"]: functools.partial(load, model) for model in job["models"]}
    result = race(loads, {name: job[name] for name in _RACE_KEYS}, job["threads"])
    return result, options[0]


def _memory_job(job: Json) -> Tuple[Json, Json]:
    _import_runtime(job["runtime"])

    def load() -> Tuple[Any, Arrays]:
        session = _open_model(job, job["models"][0])
        return session, _step_feeds(job, session)

    result = memory(load, job["iterations"])
    return result, result.pop("runtime_options")


def _infer_job(job: Json) -> Tuple[Json, Json]:
    session = _open_model(job, job["models"][0])
    write_npz(job["outputs_npz"], infer(session, _job_feeds(job, session), job["most"]))
    return {"outputs_npz": job["outputs_npz"], "outputs": session.outputs}, session.options


def _probe_job(_job: Json) -> Tuple[Json, Json]:
    """Nothing runs: what is wanted is the environment, which every result has."""
    return {}, {}


_TASKS: Dict[str, Callable[[Json], Tuple[Json, Json]]] = {
    "bench": _bench_job,
    "race": _race_job,
    "memory": _memory_job,
    "infer": _infer_job,
    "probe": _probe_job,
}


# --- bundle ---------------------------------------------------------------------------------------------------

SCHEMA = 1
SUMS = "SHA256SUMS"
ENGINE = "model.engine"
_MANIFEST_KEYS: Dict[str, Tuple[str, ...]] = {
    "backend": (),
    "artifact": (),
    "input": ("name", "shape"),
    "threads": (),
    "runtime_options": (),
    "requires": ("runtime", "version", "rule", "machine"),
    "golden": ("file", "tolerance"),
    "rebuild": (),
}


def check_bundle(folder: str) -> Json:
    """The manifest of a bundle that is whole and fits this machine; nothing of it is loaded.

    First every byte is checked against SHA256SUMS, only then the manifest is parsed, then machine and runtime compared.

    Raises:
        AgentError: Exit code 6 for a damaged or incompatible bundle, 3 for a missing runtime or engine.
    """
    verified = verify_checksums(folder)
    manifest = read_manifest(folder, verified)
    _check_compatible(folder, manifest)
    return manifest


def verify_checksums(folder: str) -> Dict[str, str]:
    """SHA-256 of each of the bundle's files, which are as SHA256SUMS says; AgentError (exit code 6) otherwise."""
    present = _files_of(folder)
    listed = _read_sums(folder)
    missing = sorted(set(listed) - present)
    extra = sorted(present - set(listed) - {SUMS, ENGINE})  # the engine is built on the board, after the sums
    if missing or extra:
        raise _damaged(folder, f"missing files {missing}, files that {SUMS} does not list {extra}")
    for name in sorted(listed):
        got = sha256_of(os.path.join(folder, name))
        if got != listed[name]:
            raise _damaged(folder, f"{name}: sha256 is {got}, expected {listed[name]}")
    return listed


def _read_sums(folder: str) -> Dict[str, str]:
    try:
        with open(os.path.join(folder, SUMS), "rb") as stream:
            text = stream.read().decode("utf-8")
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"{SUMS} is missing or no text: {error}") from error
    if not text.endswith("\n"):
        raise _damaged(folder, f"{SUMS} is missing or empty, or its end is")
    listed: Dict[str, str] = {}
    for line in text[:-1].split("\n"):  # not splitlines: it splits at other characters too
        found = re.match(r"^([0-9a-f]{64}) [ *](.+)$", line)
        if not found:
            raise _damaged(folder, f"{SUMS}: cannot read the line {line!r}; expected 'SHA256  NAME'")
        digest, name = found.groups()
        parts = name.replace("\\", "/").split("/")
        if os.path.isabs(name) or ".." in parts or "" in parts or ":" in name or name in listed:
            raise _damaged(folder, f"{SUMS}: {name!r} is not a path of its own inside the bundle")
        listed[name] = digest
    return listed


def _files_of(folder: str) -> Set[str]:
    """Relative names of all files but Python's cache of run.py; a link is refused, for it leads out of the bundle."""
    names: Set[str] = set()
    for base, folders, files in os.walk(folder):
        for name in folders + files:
            path = os.path.join(base, name)
            if os.path.islink(path) or not (os.path.isfile(path) or os.path.isdir(path)):
                raise _damaged(folder, f"{name} is a symbolic link or a device; expected a plain file")
        names.update(os.path.relpath(os.path.join(base, name), folder).replace(os.sep, "/") for name in files)
    return {name for name in names if not re.match(r"__pycache__/run\.[\w.-]+\.pyc$", name)}


def _damaged(folder: str, what: str) -> AgentError:
    return AgentError(
        f"{folder}: damaged bundle: {what}; copy it again, or build it anew with kronexport build", EXIT_BUNDLE
    )


def read_manifest(folder: str, verified: Dict[str, str]) -> Json:
    """manifest.json, if it is of a schema that this file knows and tells of no other than the ``verified`` files."""
    if "manifest.json" not in verified:
        raise _damaged(folder, f"{SUMS} does not list manifest.json")
    with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as stream:
        try:
            manifest: Any = json.load(stream)
        except ValueError as error:
            raise _damaged(folder, f"manifest.json is not JSON: {error}") from error
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != SCHEMA:
        raise _damaged(folder, f"manifest.json is not of schema {SCHEMA} but of {schema!r}, which this cannot read")
    missing = [key for key, parts in _MANIFEST_KEYS.items() if not _has(manifest, key, parts)]
    if missing:
        raise _damaged(folder, f"manifest.json lacks {missing} or a part of them")
    _check_requirement(folder, manifest)
    if manifest["artifact"] is None and manifest["backend"] != "tensorrt":
        raise _damaged(folder, f"manifest.json names no artifact for {manifest['backend']}")
    needed = [manifest["golden"]["file"]] + ([manifest["artifact"]] if manifest["artifact"] else [])
    needed += [name[: -len(".xml")] + ".bin" for name in needed if name.endswith(".xml")]
    unlisted = sorted(set(needed) - set(verified))
    if unlisted:
        raise _damaged(folder, f"manifest.json names {unlisted}, which {SUMS} does not list")
    _check_consistent(folder, manifest, verified)
    return dict(manifest)


def _check_requirement(folder: str, manifest: Json) -> None:
    requires = manifest["requires"]
    for name in (manifest["backend"], requires["runtime"]):
        if name not in (*SESSIONS, "tensorrt"):
            raise _damaged(folder, f"manifest.json names the runtime {name!r}, expected one of {sorted(SESSIONS)}")
    lists = [requires[kind] for kind in ("machine", "gpu") if requires.get(kind) is not None]
    texts = [requires["version"], requires["rule"], requires.get("sm") or ""] + [
        text for names in lists for text in names
    ]
    if not all(isinstance(names, list) for names in lists) or not all(isinstance(text, str) for text in texts):
        raise _damaged(folder, f"manifest.json: requires: got {requires}, expected texts and lists of texts")


def _check_consistent(folder: str, manifest: Json, verified: Dict[str, str]) -> None:
    """What the manifest says twice; a bundle of the first version says it once."""
    if manifest["backend"] != "tensorrt" and os.path.exists(os.path.join(folder, ENGINE)):
        raise _damaged(folder, f"{ENGINE} is none of a bundle for {manifest['backend']}")
    packed = {name: digest for name, digest in verified.items() if name != "manifest.json"}
    stated = manifest.get("files", packed)
    differing = sorted(name for name in {*packed, *stated} if packed.get(name) != stated.get(name))
    if differing:
        raise _damaged(folder, f"manifest.json and {SUMS} disagree about {differing}")
    key = compatibility_key(manifest)
    if manifest.get("compatibility", key) != key:
        raise _damaged(folder, f"manifest.json has the compatibility key {manifest['compatibility']!r}, requires {key}")


def compatibility_key(manifest: Json) -> str:
    """What a bundle needs in one line, such as ``1;onnxruntime>=1.23.0;x86_64,AMD64;any;fp32``.

    Schema, runtime with version, machines, GPUs and precision: bundles of one key run on the same devices.
    """
    requires = manifest["requires"]
    sign = {"minimum": ">=", "exact": "=="}.get(requires["rule"], requires["rule"])
    devices = [",".join(requires.get(kind) or ["any"]) for kind in ("machine", "gpu")]
    devices[1] += f" sm{requires['sm']}" if requires.get("sm") else ""
    runtime = f"{requires['runtime']}{sign}{requires['version']}"
    return ";".join([str(manifest["schema"]), runtime, *devices, str(manifest.get("precision"))])


def _has(manifest: Json, key: str, parts: Sequence[str]) -> bool:
    return key in manifest and (not parts or (isinstance(manifest[key], dict) and set(parts) <= set(manifest[key])))


def _check_compatible(folder: str, manifest: Json) -> None:
    """Machine and GPU first, which nothing has to be imported for; then the runtime's version."""
    if manifest["backend"] == "tensorrt" and not os.path.exists(os.path.join(folder, ENGINE)):
        raise _needs_trtexec(folder)  # nothing is bound to a device yet; build_engine.sh checks the board
    requires = manifest["requires"]
    machine = platform.machine()
    if requires["machine"] is not None and machine not in requires["machine"]:
        raise _incompatible(manifest, f"it is for {requires['machine']}, this machine is {machine}")
    wanted_gpus = requires.get("gpu")
    if wanted_gpus is not None:
        found = gpus()
        if not set(wanted_gpus) & set(found):
            raise _incompatible(manifest, f"it is for the GPU {wanted_gpus}, this machine has {found or 'none'}")
    if manifest["artifact"] is not None:  # else build_engine.sh looked at the release before it built the engine
        _check_version(manifest)
    if manifest["backend"] == "tensorrt":
        raise _needs_trtexec(folder)


def _check_version(manifest: Json) -> None:
    requires = manifest["requires"]
    runtime, rule, wanted = requires["runtime"], requires["rule"], requires["version"]
    if rule not in _VERSION_RULES:
        raise _incompatible(manifest, f"version rule {rule!r} is unknown; expected one of {sorted(_VERSION_RULES)}")
    got = runtime_version(runtime)
    if not serves(got, rule, wanted):
        raise _incompatible(manifest, f"it needs {runtime} {wanted} ({rule}), installed is {got}")


def gpus() -> List[str]:
    """This machine's GPUs: a Jetson's chip (``nvidia,tegra234``), or the models that NVIDIA's driver tells."""
    cards = "\n".join(_read_each("/proc/driver/nvidia/gpus/*/information"))
    return _compatible() + re.findall(r"^Model:\s*(.+)$", cards, re.MULTILINE)


def serves(got: str, rule: str, wanted: str) -> bool:
    """Whether the release ``got`` of a runtime is what ``rule``, "minimum" or "exact", asks for."""
    return bool(_VERSION_RULES[rule](_release(got), _release(wanted)))


_VERSION_RULES = {"minimum": lambda got, wanted: got >= wanted, "exact": lambda got, wanted: got == wanted}


def _release(version: str) -> Tuple[int, ...]:
    """(2026, 4, 1) of "2026.4.1-22982-e213a147257": what a rule compares; zeros at the end do not count."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in re.sub(r"(\.0+)+$", "", found.group()).split(".")) if found else ()


def _incompatible(manifest: Json, what: str) -> AgentError:
    return AgentError(f"incompatible bundle: {what}; rebuild it for this machine: {manifest['rebuild']}", EXIT_BUNDLE)


def _needs_trtexec(folder: str) -> AgentError:
    if os.path.exists(os.path.join(folder, ENGINE)):
        todo = f"{ENGINE} is built and runs in TensorRT, not from here: trtexec --loadEngine={ENGINE}"
    else:
        todo = f"{ENGINE} is not built yet: run build_engine.sh in this folder, on the board"
    return AgentError(f"{folder}: the files are whole; {todo}", EXIT_RUNTIME)


def _open_artifact(folder: str, manifest: Json, threads: int) -> Any:
    path = os.path.join(folder, manifest["artifact"])
    try:
        return open_session(manifest["backend"], path, threads, manifest["runtime_options"])
    except AgentError as error:
        if error.exit_code != EXIT_FAILURE:
            raise
        raise _incompatible(manifest, str(error)) from error


def golden_rel_l2(session: Any, golden: Arrays) -> float:
    """Greatest relative L2 distance of any output from golden data (keys "input:NAME", "output:NAME")."""
    feeds = {key[len("input:") :]: array for key, array in golden.items() if key.startswith("input:")}
    expected = {key[len("output:") :]: array for key, array in golden.items() if key.startswith("output:")}
    if sorted(expected) != sorted(session.outputs):
        raise AgentError(f"golden data has outputs {sorted(expected)}, the model {session.outputs}", EXIT_BUNDLE)
    outputs = infer(session, feeds)
    for name, array in expected.items():
        if outputs[name].shape != array.shape:
            raise AgentError(f"{name}: shape {outputs[name].shape}, golden data has {array.shape}", EXIT_NUMBERS)
    return float(np.max([rel_l2(outputs[name], array) for name, array in expected.items()]))  # max() would lose a NaN


def check_golden(folder: str) -> float:
    """Greatest relative L2 distance of a whole and fitting bundle's engine from its golden data.

    Raises:
        AgentError: As ``check_bundle``; exit code 4 if the distance is above the manifest's tolerance.
    """
    manifest = check_bundle(folder)
    session = _open_artifact(folder, manifest, manifest["threads"])
    tolerance = manifest["golden"]["tolerance"]
    distance = golden_rel_l2(session, read_npz(os.path.join(folder, manifest["golden"]["file"])))
    if not distance <= tolerance:  # a NaN is no agreement
        raise AgentError(
            f"golden outputs: rel_l2 {distance:.3e} is above {tolerance:.1e}; rebuild: {manifest['rebuild']}",
            EXIT_NUMBERS,
        )
    return distance


# --- command line ---------------------------------------------------------------------------------------------


def _command_check(folder: str, _arguments: Any) -> None:
    print(f"rel_l2 {check_golden(folder):.3e}: whole, fits this machine, golden outputs agree")


def _command_bench(folder: str, arguments: Any) -> None:
    manifest = check_bundle(folder)
    before = machine_state()
    threads = arguments.threads or manifest["threads"]
    sessions = {}
    if arguments.against:
        sessions["against"] = _open_against(arguments.against, manifest, threads)
    sessions["bundle"] = _open_artifact(folder, manifest, threads)
    port = manifest["input"]
    feeds = {name: random_feeds(session, port["name"], port["shape"], 0) for name, session in sessions.items()}
    for name, session in sessions.items():
        check_feeds(session.inputs, feeds[name])
    timing = {"warmup_seconds": 1.0, "seconds": arguments.seconds, "rounds": arguments.rounds, "seed": 0}
    result = bench(sessions, feeds, timing)
    result["environment"] = machine_environment(manifest["backend"], threads, sessions["bundle"].options, before)
    print(json.dumps(result) if arguments.json else _bench_text(result))


def _open_against(path: str, manifest: Json, threads: int) -> Any:
    try:
        return open_session(manifest["backend"], path, threads, manifest["runtime_options"])
    except AgentError as error:
        raise AgentError(str(error), EXIT_RUNTIME if error.exit_code == EXIT_RUNTIME else EXIT_INPUT) from error


def _bench_text(result: Json) -> str:
    lines = ["{:<10}{:>8}{:>10}{:>10}{:>10}{:>10}".format("ms", "n", "min", "p50", "p95", "p99")]
    row = "{name:<10}{n:>8}{min:>10.3f}{p50:>10.3f}{p95:>10.3f}{p99:>10.3f}"
    lines += [row.format(name=model["name"], **model["latency_ms"]) for model in result["models"]]
    verdict = "speed-up {median:.2f}x (95 % {ci95[0]:.2f} to {ci95[1]:.2f}): {verdict}"
    lines += [verdict.format(**speedup) for speedup in result["speedups"].values()]
    return "\n".join(lines)


def _command_infer(folder: str, arguments: Any) -> None:
    target = os.path.realpath(os.path.dirname(os.path.abspath(arguments.outputs)))
    if not os.path.isdir(target):
        raise AgentError(f"{arguments.outputs}: there is no folder {target}; make it first")
    if (target + os.sep).startswith(os.path.realpath(folder) + os.sep):
        raise AgentError(f"{arguments.outputs}: lies inside the bundle, which {SUMS} seals; write it elsewhere")
    manifest = check_bundle(folder)
    session = _open_artifact(folder, manifest, manifest["threads"])
    feeds = _read_inputs(arguments.inputs, manifest["input"]["name"])
    write_npz(arguments.outputs, infer(session, feeds, (manifest.get("dynamic_batch") or {}).get("max")))


def _read_inputs(path: str, name: str) -> Arrays:
    if not path.endswith(".npy"):
        return read_npz(path)
    try:
        with open(path, "rb") as stream:
            return {name: np.load(stream, allow_pickle=False)}
    except _UNREADABLE as error:
        raise AgentError(f"{path}: not a readable .npy array: {error}") from error


_COMMANDS = {"check": _command_check, "bench": _command_bench, "infer": _command_infer}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Checks, times or runs the model of this bundle.")
    commands = parser.add_subparsers(dest="command", metavar="check | bench | infer")
    commands.add_parser("check", help="verify every file, then the model's outputs against the golden data")
    timing = commands.add_parser("bench", help="time the model, alone or against another")
    timing.add_argument("--seconds", type=float, default=5.0, help="timed seconds of each model (default 5)")
    timing.add_argument("--rounds", type=int, default=20, help="rounds to spread them over (default 20)")
    timing.add_argument("--threads", type=int, help="threads of one inference (default: the manifest's)")
    timing.add_argument("--against", metavar="OTHER.onnx", help="baseline of the speed-up, e.g. the dense model")
    timing.add_argument("--json", action="store_true", help="print the whole result, samples included")
    running = commands.add_parser("infer", help="outputs for given inputs")
    running.add_argument("inputs", metavar="IN.npy|IN.npz", help="one array, or arrays by input name")
    running.add_argument("outputs", metavar="OUT.npz")
    return parser


def _run_job_file(job_path: str, result_path: str) -> None:
    try:
        with open(job_path, encoding="utf-8") as stream:
            job = json.load(stream)
    except (OSError, ValueError) as error:
        raise AgentError(f"{job_path}: not a readable JSON job: {error}") from error
    write_json(result_path, run_job(job))


def _dispatch(arguments: Sequence[str]) -> None:
    if len(arguments) == 2 and arguments[0].endswith(".json"):  # noqa: PLR2004  JOB.json and RESULT.json
        _run_job_file(*arguments)
        return
    parsed = _parser().parse_args(arguments)
    if parsed.command is None:
        raise AgentError(f"no command; use one of {sorted(_COMMANDS)}, or JOB.json RESULT.json")
    _COMMANDS[parsed.command](os.path.dirname(os.path.abspath(__file__)), parsed)


def main(arguments: Sequence[str]) -> int:
    """Runs a job or a bundle's command; returns the exit code, with the message of an error on stderr."""
    try:
        _dispatch(arguments)
    except AgentError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_FAILURE
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
