"""What is special about OpenVINO: the IR that it writes."""

from pathlib import Path

from kronexport.backends import BACKENDS
from kronexport.backends.profile import load_target
from tests.backends.models import save_tiny_model


def test_weights_stay_in_fp32(tmp_path: Path) -> None:
    """OpenVINO writes fp16 unless told otherwise, which would be a silent downgrade: 4 * 3 * 3 * 3 + 4 floats."""
    model = save_tiny_model(tmp_path / "model.onnx")
    BACKENDS["openvino"].compile(model, tmp_path / "compiled", load_target("openvino"))
    assert (tmp_path / "compiled" / "model.bin").stat().st_size >= 4 * (4 * 3 * 3 * 3 + 4)
    assert "f16" not in (tmp_path / "compiled" / "model.xml").read_text(encoding="utf-8")


def test_the_ir_tells_nothing_of_the_machine_it_was_made_on(tmp_path: Path) -> None:
    """A bundle goes to other people."""
    model = save_tiny_model(tmp_path / "model.onnx")
    BACKENDS["openvino"].compile(model, tmp_path / "compiled", load_target("openvino"))
    assert str(tmp_path) not in (tmp_path / "compiled" / "model.xml").read_text(encoding="utf-8")
