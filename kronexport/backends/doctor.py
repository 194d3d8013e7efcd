"""What this machine has for building and measuring, and the command that mends what is missing.

It only looks: nothing is installed, no clock is changed, no engine is built.
"""

import importlib
import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kronexport import agent
from kronexport.backends import require_runtime
from kronexport.backends.profile import TargetProfile, list_targets
from kronexport.errors import KronexportError

_PACKAGES: Final = ("torch", "onnx", "onnxruntime", "openvino", "onnxsim")
_MIN_PYTHON: Final = (3, 11)
_CPU_FEATURES: Final = {
    # as /proc/cpuinfo calls them: what the fp32 and int8 convolution kernels are chosen by
    "AVX-512": "avx512f",
    "AVX-512 VNNI": "avx512_vnni",
    "AVX-VNNI": "avx_vnni",
    "AVX2": "avx2",
    "NEON": "asimd",
    "NEON dot product": "asimddp",
    "NEON fp16": "asimdhp",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``version``: what was found, None if nothing; ``remedy``: what mends it."""

    name: str
    ok: bool
    version: str | None
    remedy: str | None = None


def diagnose() -> list[Finding]:
    """Python, packages, TensorRT, the CPU and its clocks, then every target, in this order.

    Raises:
        UserInputError: A target file is wrong.
    """
    return [
        _python(),
        *map(package, _PACKAGES),
        trtexec(),
        cpu(),
        cores(),
        governor(),
        *map(target, list_targets()),
    ]


def package(name: str) -> Finding:
    """Whether a Python package can be imported; it is, since one that is there may still miss a library."""
    remedy = f"python -m pip install {name}"
    try:
        module = importlib.import_module(name)
    except Exception as error:  # noqa: BLE001  a broken install raises anything, and is a finding, not our failure
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return Finding(name, ok=False, version=None, remedy=remedy)
        return Finding(name, ok=False, version=f"broken: {error}", remedy=f"{remedy} --force-reinstall")
    return Finding(name, ok=True, version=str(getattr(module, "__version__", "installed")))


def trtexec(find: Callable[[], str | None] = agent.trtexec_path) -> Finding:
    """TensorRT's tool. Off a Jetson it is no fault that it is missing: build_engine.sh runs on the board."""
    path = find()
    missing = "not here; Jetson engines are built on the board by build_engine.sh"
    return Finding("tensorrt (trtexec)", ok=True, version=path or missing)


def cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> Finding:
    """The vector instructions that kernels are chosen by."""
    machine = platform.machine()
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Finding("cpu", ok=True, version=f"{machine}; {cpuinfo} is not readable")
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    flags = set(line.group(1).split()) if line else set()
    found = [name for name, flag in _CPU_FEATURES.items() if flag in flags]
    return Finding("cpu", ok=True, version=f"{machine}; {', '.join(found) or 'no vector instructions known'}")


def cores() -> Finding:
    """Cores that this process may use, of those that the machine has."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("cores", ok=True, version=f"{usable} of {os.cpu_count()} usable")


def governor(cpus: Path = Path("/sys/devices/system/cpu")) -> Finding:
    """The frequency governors in force: timings wander under any but ``performance``."""
    found = sorted({path.read_text(encoding="utf-8").strip() for path in cpus.glob("cpu*/cpufreq/scaling_governor")})
    if not found:
        return Finding("governor", ok=True, version="not readable here (a virtual machine, or no Linux)")
    steady = found == ["performance"]
    remedy = None if steady else "sudo cpupower frequency-set -g performance"
    return Finding("governor", ok=steady, version=", ".join(found), remedy=remedy)


def target(profile: TargetProfile) -> Finding:
    """Whether the target can be built here."""
    name = f"target {profile.name}"
    try:
        version = require_runtime(profile)
    except KronexportError as error:
        return Finding(name, ok=False, version=None, remedy=str(error))
    if profile.board is not None:
        return Finding(name, ok=True, version=f"ONNX and build_engine.sh for {profile.runtime.package} {version}")
    where = "" if profile.measured_here else "; verified here, measured on the device"
    return Finding(name, ok=True, version=f"{profile.runtime.package} {version}{where}")


def _python() -> Finding:
    wanted = ".".join(map(str, _MIN_PYTHON))
    ok = tuple(map(int, platform.python_version_tuple()[:2])) >= _MIN_PYTHON
    remedy = None if ok else f"install Python {wanted} or later"
    return Finding("python", ok=ok, version=platform.python_version(), remedy=remedy)
