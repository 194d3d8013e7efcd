"""kronexport: Kronecker-factorized CNNs as plain ONNX, measured on the device they ship to.

Importing this loads neither torch nor a runtime; each public name is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kronexport.export.module import KroneckerConv2d, KroneckerLinear
    from kronexport.factorize.decompose import decompose
    from kronexport.pipeline import build

__version__ = "0.1.0"

_HOME = {
    "KroneckerConv2d": "kronexport.export.module",
    "KroneckerLinear": "kronexport.export.module",
    "build": "kronexport.pipeline",
    "decompose": "kronexport.factorize.decompose",
}

__all__ = ["KroneckerConv2d", "KroneckerLinear", "__version__", "build", "decompose"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
