"""kronexport: Kronecker-factorized CNNs as plain ONNX, measured on the device they ship to.

Importing this loads neither torch nor a runtime; each public name is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kronexport.compression import Compressed, compress
    from kronexport.export.factors_file import load_compressed, save_compressed
    from kronexport.export.module import KroneckerConv2d, KroneckerLinear
    from kronexport.factorize.budget import scan
    from kronexport.factorize.decompose import decompose
    from kronexport.pipeline import build
    from kronexport.recover.distil import distil
    from kronexport.recover.recipe import Recipe

__version__ = "0.1.0"

_HOME = {
    "Compressed": "kronexport.compression",
    "KroneckerConv2d": "kronexport.export.module",
    "KroneckerLinear": "kronexport.export.module",
    "Recipe": "kronexport.recover.recipe",
    "build": "kronexport.pipeline",
    "compress": "kronexport.compression",
    "decompose": "kronexport.factorize.decompose",
    "distil": "kronexport.recover.distil",
    "load_compressed": "kronexport.export.factors_file",
    "save_compressed": "kronexport.export.factors_file",
    "scan": "kronexport.factorize.budget",
}

__all__ = [
    "Compressed",
    "KroneckerConv2d",
    "KroneckerLinear",
    "Recipe",
    "__version__",
    "build",
    "compress",
    "decompose",
    "distil",
    "load_compressed",
    "save_compressed",
    "scan",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
