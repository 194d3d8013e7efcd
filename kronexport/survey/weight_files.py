"""Which files may hold weights; ``weights.py``, which reads them, loads torch."""

from pathlib import Path
from typing import Final

from kronexport.errors import UserInputError

SUFFIXES: Final = (".safetensors", ".pt", ".pth", ".th", ".npz")


def check_weights_file(path: Path) -> None:
    """UserInputError unless there is a file of a type that can be read."""
    if path.suffix not in SUFFIXES:
        raise UserInputError(f"{path}: weights of type {path.suffix!r} cannot be read; give {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UserInputError(f"--weights {path}: there is no such weights file; expected one of {', '.join(SUFFIXES)}")
