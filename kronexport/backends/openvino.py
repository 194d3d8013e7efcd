"""OpenVINO: model.onnx becomes its IR, model.xml and model.bin, with the weights left in fp32."""

import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kronexport.backends.base import Compiled, Runner, check_loads, installed_version, session_runner
from kronexport.backends.profile import BackendName, TargetProfile
from kronexport.errors import KronexportError, UserInputError
from kronexport.files import TEMP_PREFIX


@dataclass(frozen=True, slots=True)
class OpenVinoBackend:
    """OpenVINO's CPU plugin; see ``Backend``. The agent asks it for f32, lest it choose bf16 silently."""

    name: BackendName = "openvino"

    def require(self) -> str:
        return installed_version(self.name)

    def compile(
        self,
        model: Path,
        folder: Path,
        profile: TargetProfile,
        *,
        allow_fallback: bool = False,  # noqa: ARG002  nothing falls back: its precision is that of the ONNX
    ) -> Compiled:
        self.require()
        if not model.is_file():
            raise UserInputError(f"{model}: no such model file; expected an .onnx")
        folder.mkdir(parents=True, exist_ok=True)
        names = ("model.bin", "model.xml")  # the weights first: a model.xml is never without its own
        with tempfile.TemporaryDirectory(prefix=TEMP_PREFIX, dir=folder) as aside:
            _save_ir(model, Path(aside, "model.xml"))
            check_loads(self.name, Path(aside, "model.xml"), profile.threads)
            for name in names:
                Path(aside, name).replace(folder / name)
        return Compiled(artifact=folder / "model.xml", files=tuple(folder / name for name in names))

    def runner(self, compiled: Compiled, threads: int) -> AbstractContextManager[Runner]:
        return session_runner(self.name, compiled, threads)


def _save_ir(model: Path, xml: Path) -> None:
    import openvino  # noqa: PLC0415  a runtime: loaded only where it is used

    ov: Any = openvino
    try:
        network = ov.Core().read_model(model)
    except Exception as error:  # OpenVINO raises plain RuntimeError and classes of its own
        raise KronexportError(
            f"{model}: OpenVINO {ov.__version__} cannot read this model: {error}; expected ONNX of standard operators"
        ) from error
    try:
        ov.save_model(network, xml, compress_to_fp16=False)
    except Exception as error:  # a full disk comes as RuntimeError too
        raise KronexportError(
            f"{xml.parent}: OpenVINO {ov.__version__} cannot write the IR of {model}: {error}; is the disk full?"
        ) from error
