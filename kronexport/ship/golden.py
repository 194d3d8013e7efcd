"""Golden data: inputs with the outputs of the verified model, to compare with on any device."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronexport.errors import KronexportError
from kronexport.files import atomic_write

INPUT_PREFIX = "input:"
OUTPUT_PREFIX = "output:"


@dataclass(frozen=True, slots=True)
class Golden:
    """Inputs and outputs of the verified simplified model by ONNX name; samples: any multiple of its static batch."""

    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, before compression."""
        return sum(array.nbytes for array in (*self.inputs.values(), *self.outputs.values()))


def write_golden(golden: Golden, path: Path) -> None:
    """Writes golden.npz with the keys ``input:NAME`` and ``output:NAME``.

    Args:
        golden: At least one input and one output.
        path: Where to; its suffix is ``.npz``.

    Raises:
        KronexportError: Nothing to compare with, an array is not finite, or the disk is full.
    """
    if not golden.inputs or not golden.outputs:
        raise KronexportError(
            f"{path}: golden data of {len(golden.inputs)} inputs and {len(golden.outputs)} outputs; "
            "expected at least one of each"
        )
    arrays = {f"{INPUT_PREFIX}{name}": array for name, array in golden.inputs.items()}
    arrays |= {f"{OUTPUT_PREFIX}{name}": array for name, array in golden.outputs.items()}
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise KronexportError(
                f"{path}: {key} holds NaN or infinity, with which nothing can be compared; check the model's weights"
            )
    with atomic_write(path, needed=golden.nbytes) as aside, aside.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)
