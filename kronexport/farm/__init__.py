import importlib.util

from kronexport.errors import MissingRuntimeError


def require_dask() -> None:
    """Call it before a module of this folder is imported: they need what the extra ``farm`` installs.

    Raises:
        MissingRuntimeError: it is not installed; the message has the command that installs it.
    """
    if importlib.util.find_spec("distributed") is None:
        raise MissingRuntimeError(
            "--farm: dask.distributed is not installed; run: python -m pip install 'kronexport[farm]'"
        )
