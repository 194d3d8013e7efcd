"""The runtimes that kronexport compiles for. Importing this loads none of them."""

import platform
from typing import Final

from kronexport.backends.base import Backend
from kronexport.backends.fit import check_machine, check_release
from kronexport.backends.onnxruntime import OnnxRuntimeBackend
from kronexport.backends.openvino import OpenVinoBackend
from kronexport.backends.profile import BackendName, TargetProfile
from kronexport.backends.tensorrt import TensorRtBackend
from kronexport.backends.trt_machine import TrtMachine
from kronexport.machines.base import Machine
from kronexport.records import BatchRange

_HERE: Final = "this machine"
"""In messages."""

BACKENDS: Final[dict[BackendName, Backend]] = {
    "onnxruntime": OnnxRuntimeBackend(),
    "openvino": OpenVinoBackend(),
    "tensorrt": TensorRtBackend(),
}


def backend_on(profile: TargetProfile, machine: Machine | None, batches: BatchRange | None = None) -> Backend:
    """The backend of the target's runtime; that of TensorRT builds on ``machine``, if there is one, for ``batches``."""
    if profile.backend != "tensorrt":
        return BACKENDS[profile.backend]
    return TensorRtBackend(machine=machine if isinstance(machine, TrtMachine) else None, batches=batches)


def require_runtime(profile: TargetProfile) -> str:
    """The release of the runtime that the target's files are made with; call it before any work.

    For a target whose engine is built on its board this is the release that the profile names. Another device with a
    runtime that is here too is built for on any machine: its numbers are verified in that runtime.

    Raises:
        MissingRuntimeError: The runtime is missing here, or of a release that does not serve; with the pip command.
        UserInputError: The target is measured here, but is another kind of machine than this one.
    """
    backend = BACKENDS[profile.backend]
    version = backend.require()
    if profile.board is not None:
        return profile.runtime.version
    if profile.measured_here:
        check_machine(profile, _HERE, platform.machine())
    check_release(profile, _HERE, version)
    return version
