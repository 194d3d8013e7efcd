"""onnxsim is a guest: whatever it does wrong, it is refused with a reason and the source stays as it was."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from kronexport.lower import simplify as module
from kronexport.lower.simplify import SimplifierRefusedError, simplify

pytestmark = pytest.mark.usefixtures("simplifier")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model with something to simplify: the sum of two constants."""
    path = tmp_path / "source.onnx"
    save(path)
    return path


def save(path: Path, *, output: str = "y", opset: int = 17) -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["ab"]), helper.make_node("Add", ["x", "ab"], [output])],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(np.ones(4, np.float32), name) for name in ("a", "b")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)


class Impostor:
    """Stands for ``subprocess``: what it runs in onnxsim's place is ``python -c CODE SOURCE DESTINATION``."""

    TimeoutExpired = subprocess.TimeoutExpired
    DEVNULL = subprocess.DEVNULL

    def __init__(self, code: str) -> None:
        self.code = code

    def run(self, command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        assert command[:2] == [sys.executable, "-c"]
        replaced = [sys.executable, "-S", "-c", self.code, *command[3:]]
        return subprocess.run(replaced, check=False, **{key: options[key] for key in options if key != "check"})


def test_it_folds_constants_and_keeps_the_source(source: Path, tmp_path: Path) -> None:
    """Inputs, outputs, opset and IR version are those of the source."""
    before = source.read_bytes()
    simplified = simplify(source, tmp_path / "simple.onnx")
    assert [node.op_type for node in simplified.graph] == ["Add"]
    assert (simplified.opset_imports[""], simplified.ir_version) == (17, 8)
    assert ir.load(tmp_path / "simple.onnx").ir_version == 8
    assert source.read_bytes() == before


def test_without_onnxsim_the_reason_names_what_to_install(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(SimplifierRefusedError, match=r"not installed \(pip install 'kronexport\[simplify\]'\)"):
        simplify(source, tmp_path / "simple.onnx")


def test_a_file_that_is_no_model_is_refused_with_the_tool_s_own_words(tmp_path: Path) -> None:
    """The real onnxsim, in its own process, ends with an error; ours goes on."""
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(SimplifierRefusedError, match=r"onnxsim ended with exit code \d+: \S"):
        simplify(broken, tmp_path / "simple.onnx")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.abort()", "exit code -6: no message"),
        ("import sys; sys.exit('it went wrong')", "exit code 1: it went wrong"),
        ("pass", "exit code 0: no message"),
        ("import sys; open(sys.argv[2], 'wb').write(b'no model')", "wrote a model that is not valid"),
    ],
    ids=["crashes", "fails", "writes nothing", "writes rubbish"],
)
def test_a_misbehaving_simplifier_is_refused(
    code: str, reason: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "subprocess", Impostor(code))
    with pytest.raises(SimplifierRefusedError, match=reason):
        simplify(source, tmp_path / "simple.onnx")


def test_a_hanging_simplifier_is_ended(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "subprocess", Impostor("import time; time.sleep(60)"))
    with pytest.raises(SimplifierRefusedError, match=r"did not finish within 0\.2 s"):
        simplify(source, tmp_path / "simple.onnx", timeout_seconds=0.2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"output": "renamed"}, "changed the inputs or outputs"), ({"opset": 18}, "changed the opset")],
)
def test_a_model_with_another_interface_is_refused(
    change: dict[str, Any], reason: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "other.onnx", **change)
    copy = f"import shutil, sys; shutil.copy({str(tmp_path / 'other.onnx')!r}, sys.argv[2])"
    monkeypatch.setattr(module, "subprocess", Impostor(copy))
    with pytest.raises(SimplifierRefusedError, match=reason):
        simplify(source, tmp_path / "simple.onnx")
