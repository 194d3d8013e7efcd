"""What a target needs of this machine, and that the package itself needs nothing."""

import platform
import subprocess
import sys

import onnxruntime
import pytest

from kronexport.backends import require_runtime
from kronexport.backends.profile import load_target
from kronexport.errors import MissingRuntimeError, UserInputError


def test_importing_the_backends_loads_no_runtime() -> None:
    """Listing targets must answer at once."""
    code = "import sys, kronexport.backends; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "onnx", "onnxruntime", "openvino", "tensorrt"}


def test_the_installed_runtime_serves() -> None:
    """What is returned is what the runtime itself tells."""
    assert require_runtime(load_target("cpu")) == onnxruntime.__version__


def test_a_release_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 3, with what is installed, what is expected and the command."""
    monkeypatch.setattr(onnxruntime, "__version__", "1.9.0")
    with pytest.raises(
        MissingRuntimeError,
        match=r"this machine has onnxruntime 1\.9\.0, expected 1\.23 .*pip install 'onnxruntime>=1\.23'",
    ):
        require_runtime(load_target("cpu"))


def test_a_target_of_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures measured on an ARM board must not be called those of an x86 CPU."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(UserInputError, match="this machine is aarch64, expected x86_64 or AMD64"):
        require_runtime(load_target("cpu"))


@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
@pytest.mark.parametrize("name", ["rpi5", "intel-n100"])
def test_another_device_is_built_for_on_any_machine(name: str, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured for it, so that no figure can be called its own."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert require_runtime(load_target(name))


def test_another_device_needs_the_runtime_that_verifies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.9.0")
    with pytest.raises(MissingRuntimeError, match=r"target 'rpi5': this machine has onnxruntime 1\.9\.0"):
        require_runtime(load_target("rpi5"))


@pytest.mark.parametrize(("name", "version"), [("jetson", "8.6.2"), ("jetson@jp6.2", "10.3")])
def test_an_engine_needs_the_release_that_its_profile_names(name: str, version: str) -> None:
    """The board has it, not this machine."""
    assert require_runtime(load_target(name)) == version
