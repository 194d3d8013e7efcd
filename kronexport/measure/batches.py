"""Which models race together: those of one layer, as many as may be open at once."""

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx_ir as ir

from kronexport.measure.micro import Trial, micro_key, micro_model
from kronexport.measure.work import work_of
from kronexport.records import Precision

BATCH: Final = 12
"""Models that are open at once, the dense one included; what Ctrl-C may cost."""
OPEN_BYTES: Final = 1024**3
"""Of the images that they read and write: a runtime keeps them, and layers of large images would fill the memory."""

_ELEMENT_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Timed:
    """A trial by what its time is stored under. The reference is the same layer left dense."""

    trial: Trial
    key: str
    reference: str

    @classmethod
    def of(cls, trial: Trial, opset: int, precision: Precision) -> "Timed":
        return cls(trial, micro_key(trial, opset, precision), micro_key(trial.dense, opset, precision))

    @property
    def pair(self) -> tuple[str, str]:
        return self.key, self.reference

    @property
    def dense(self) -> "Timed":
        return Timed(self.trial.dense, self.reference, self.reference)


@dataclass(frozen=True, slots=True)
class Batch:
    """Models of one layer that race each other, the dense one first, as files of ``folder``."""

    models: Sequence[Timed]
    folder: Path

    @classmethod
    def written(cls, models: Sequence[Timed], opset: int, precision: Precision, within: Path) -> "Batch":
        """The models as files in a new folder in ``within``."""
        batch = cls(models, Path(tempfile.mkdtemp(dir=within)))
        for model, path in zip(models, batch.paths.values(), strict=True):
            ir.save(micro_model(model.trial, opset, precision), path)
        return batch

    @property
    def layer(self) -> str:
        return self.models[0].reference

    @property
    def named(self) -> Mapping[str, Timed]:
        """By what they are called in the race."""
        return {f"{index}: {model.trial}": model for index, model in enumerate(self.models)}

    @property
    def paths(self) -> Mapping[str, Path]:
        return {name: self.folder / f"{index}.onnx" for index, name in enumerate(self.named)}


def fitting(forms: Sequence[Timed]) -> Sequence[Timed]:
    """As many of the first as may be open at once, at least one."""
    sizes = [_ELEMENT_BYTES * work_of(model.trial.form, model.trial.batch).moved for model in forms[: BATCH - 1]]
    fit = sum(1 for total in itertools.accumulate(sizes) if total <= OPEN_BYTES)
    return forms[: max(1, fit)]
