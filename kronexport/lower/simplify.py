"""onnxsim as an optional step: in a process of its own, with a timeout; the caller verifies and may revert."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import onnx_ir as ir

from kronexport.lower.standard import check_standard

TIMEOUT_SECONDS = 300

_ONNXSIM = "import sys; sys.modules['torch'] = None; from onnxsim.onnx_simplifier import main; main()"
"""Its command, but for torch, which it loads where there is one, and which takes most of its time for a small model."""


class SimplifierRefusedError(Exception):
    """The simplifier is absent, hung, crashed or wrote something unusable; the text says which."""


def simplify(source: Path, destination: Path, timeout_seconds: float = TIMEOUT_SECONDS) -> ir.Model:
    """Write a simplified copy of ``source`` and return it; ``source`` is not touched.

    Raises:
        SimplifierRefusedError: no usable result; the model as it was remains the one to ship.
    """
    if importlib.util.find_spec("onnxsim") is None:
        raise SimplifierRefusedError("onnxsim is not installed (pip install 'kronexport[simplify]')")
    command = [sys.executable, "-c", _ONNXSIM, str(source), str(destination)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_seconds, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise SimplifierRefusedError(f"onnxsim did not finish within {timeout_seconds} s") from error
    if done.returncode != 0 or not destination.is_file():
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
        raise SimplifierRefusedError(f"onnxsim ended with exit code {done.returncode}: {last[0]}")
    return _usable(destination, ir.load(source))


def _usable(path: Path, before: ir.Model) -> ir.Model:
    try:
        after = ir.load(path)
        check_standard(after)
    except Exception as error:  # whatever a foreign tool wrote: any failure to read it means the same
        raise SimplifierRefusedError(f"onnxsim wrote a model that is not valid: {error}") from error
    signature = [(value.name, str(value.shape)) for value in (*before.graph.inputs, *before.graph.outputs)]
    if [(value.name, str(value.shape)) for value in (*after.graph.inputs, *after.graph.outputs)] != signature:
        raise SimplifierRefusedError("onnxsim changed the inputs or outputs of the model")
    if after.opset_imports.get("") != before.opset_imports.get(""):
        raise SimplifierRefusedError("onnxsim changed the opset of the model")
    after.ir_version = before.ir_version
    ir.save(after, path)
    return after
