"""A job in a process of its own: results, errors by exit code, and that the process never outlives the call."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kronexport import agent
from kronexport.errors import BundleError, KronexportError, MissingRuntimeError, UserInputError, VerificationError
from kronexport.machines.here import HERE
from tests.measure.samples import INPUT, SHAPE, save_model


def job(path: Path, **changes: Any) -> dict[str, Any]:
    """A bench job that works, but for ``changes``."""
    return {
        "task": "bench",
        "runtime": "onnxruntime",
        "threads": 1,
        "options": {},
        "models": [{"name": "tiny", "path": str(path)}],
        "input": {"name": INPUT, "shape": list(SHAPE)},
        "warmup_seconds": 0,
        "seconds": 0.01,
        "rounds": 1,
        "seed": 0,
        **changes,
    }


def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str) -> None:
    """Lets another script take the agent's place in the process."""
    (tmp_path / "stand_in.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(agent, "__file__", str(tmp_path / "stand_in.py"))


def test_result_of_the_job_comes_back(tmp_path: Path) -> None:
    result = HERE.run_agent(job(save_model(tmp_path / "model.onnx")), timeout_seconds=60)
    assert result["models"][0]["name"] == "tiny"


def test_bad_job_is_the_users_input_error_with_the_agents_message(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=r"bench of tiny on onnxruntime: .*gone\.onnx: no such model file"):
        HERE.run_agent(job(tmp_path / "gone.onnx"), timeout_seconds=60)


def test_model_that_does_not_load_is_no_fault_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(KronexportError, match="cannot load this model") as caught:
        HERE.run_agent(job(tmp_path / "model.onnx"), timeout_seconds=60)
    assert type(caught.value) is KronexportError


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (1, KronexportError),
        (2, UserInputError),
        (3, MissingRuntimeError),
        (4, VerificationError),
        (6, BundleError),
        (77, KronexportError),
        (130, KeyboardInterrupt),
    ],
)
def test_exit_code_becomes_the_error_class(
    code: int, error: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch, tmp_path, f"import sys; sys.stderr.write('noise\\nerror: why\\nhow'); sys.exit({code})")
    with pytest.raises(error) as caught:
        HERE.run_agent(job(tmp_path / "model.onnx"), timeout_seconds=60)
    assert type(caught.value) is error
    if error is not KeyboardInterrupt:
        assert str(caught.value) == "bench of tiny on onnxruntime: why\nhow"


def test_traceback_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch, tmp_path, "1 / 0")
    with pytest.raises(KronexportError, match=r"(?s)the measuring process failed.*ZeroDivisionError"):
        HERE.run_agent(job(tmp_path / "model.onnx"), timeout_seconds=60)


def test_killed_process_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch, tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(KronexportError, match=r"ended by SIGKILL.*memory"):
        HERE.run_agent(job(tmp_path / "model.onnx"), timeout_seconds=60)


def test_process_that_takes_too_long_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    late = tmp_path / "late"
    stand_in(monkeypatch, tmp_path, f"import time; time.sleep(2); open({str(late)!r}, 'w').close()")
    with pytest.raises(KronexportError, match="no result within 0 s"):
        HERE.run_agent(job(tmp_path / "model.onnx"), timeout_seconds=0.2)
    assert not late.exists()


def test_ctrl_c_ends_the_process_too(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text(
        f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n",
        encoding="utf-8",
    )
    caller = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background inherit that it is ignored
from kronexport import agent
from kronexport.machines.here import HERE
agent.__file__ = {str(tmp_path / "sleeper.py")!r}
HERE.run_agent({{"task": "t", "runtime": "r", "models": []}}, timeout_seconds=60)
""",
        ],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    child = _written_pid(tmp_path / "pid", caller)
    caller.send_signal(signal.SIGINT)
    _, stderr = caller.communicate(timeout=30)
    assert "KeyboardInterrupt" in stderr
    assert not Path("/proc", str(child)).exists()


def _written_pid(path: Path, caller: subprocess.Popen[str]) -> int:
    while not (path.exists() and path.read_text(encoding="utf-8")):
        assert caller.poll() is None
    return int(path.read_text(encoding="utf-8"))
