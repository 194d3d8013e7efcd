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

_PACKAGES: Final = {
    "torch": "nothing can be built",
    "onnx": "nothing can be built",
    "onnxruntime": "nothing can be built: every target's numbers are verified in it",
    "openvino": "targets with OpenVINO cannot be built",
    "onnxsim": "optional: model.onnx is shipped without the last simplification",
}
"""By name, what it means that a package is not there."""
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
    """One thing that was looked at.

    ``ok``: a build can do with it as it is. ``version``: what was found, None if nothing. ``remedy``: what mends it.
    ``present``: it is here. ``means``: what follows from it, where that does not go without saying.
    """

    name: str
    ok: bool
    version: str | None
    remedy: str | None = None
    present: bool = True
    means: str | None = None


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
    remedy, means = f"python -m pip install {name}", _PACKAGES.get(name)
    try:
        module = importlib.import_module(name)
    except Exception as error:  # noqa: BLE001  a broken install raises anything, and is a finding, not our failure
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return Finding(name, ok=False, version=None, remedy=remedy, present=False, means=means)
        return Finding(name, ok=False, version=f"broken: {error}", remedy=f"{remedy} --force-reinstall", means=means)
    return Finding(name, ok=True, version=str(getattr(module, "__version__", "installed")))


def trtexec(find: Callable[[], str | None] = agent.trtexec_path) -> Finding:
    """TensorRT's tool. Off a Jetson it is no fault that it is missing: build_engine.sh runs on the board."""
    path = find()
    means = (
        "no engine is built or timed on this machine; a Jetson's is, on the board: --device, or build_engine.sh there"
    )
    return Finding("tensorrt (trtexec)", ok=True, version=path, present=path is not None, means=None if path else means)


def cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> Finding:
    """The vector instructions that kernels are chosen by."""
    machine = platform.machine()
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        means = "its vector instructions are not known; builds do not need them"
        return Finding("cpu", ok=True, version=f"{machine}; {cpuinfo} is not readable", means=means)
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
        means = (
            "not readable (a virtual machine, or no Linux): whether clocks hold while networks are timed is not known"
        )
        return Finding("governor", ok=True, version=None, present=False, means=means)
    if found == ["performance"]:
        return Finding("governor", ok=True, version="performance")
    remedy, means = "sudo cpupower frequency-set -g performance", "clocks may change while networks are timed"
    return Finding("governor", ok=False, version=", ".join(found), remedy=remedy, means=means)


def target(profile: TargetProfile) -> Finding:
    """Whether the target can be built here."""
    name = f"target {profile.name}"
    try:
        version = require_runtime(profile)
    except KronexportError as error:
        return Finding(name, ok=False, version=None, remedy=str(error), present=False, means="cannot be built here")
    release = f"{profile.runtime.package} {version}"
    if profile.board is not None:
        made = f"model.onnx and build_engine.sh for {release} are made here, its engine and all times on the board"
        return Finding(name, ok=True, version=release, means=made)
    means = None if profile.measured_here else "verified here, measured on the device alone"
    return Finding(name, ok=True, version=release, means=means)


def _python() -> Finding:
    wanted = ".".join(map(str, _MIN_PYTHON))
    ok = tuple(map(int, platform.python_version_tuple()[:2])) >= _MIN_PYTHON
    remedy = None if ok else f"install Python {wanted} or later"
    return Finding("python", ok=ok, version=platform.python_version(), remedy=remedy)
