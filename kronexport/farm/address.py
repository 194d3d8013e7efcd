"""The address of a farm, as ``dask scheduler`` prints it; looked at before dask is loaded."""

import re

from kronexport.errors import UserInputError


def checked_address(text: str) -> str:
    """``text``, if it is the address of a scheduler.

    Raises:
        UserInputError: it is none.
    """
    if re.fullmatch(r"(tcp|tls)://[^\s/]+:\d{1,5}", text) is None:
        raise UserInputError(f"--farm {text}: expected tcp://HOST:PORT or tls://HOST:PORT, as dask scheduler prints it")
    return text
