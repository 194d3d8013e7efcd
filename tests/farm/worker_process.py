"""A worker as ``kronexport farm worker`` runs it, with a lease of its own: python -m ... FARM LEASE KIND [DEVICE].

A ``scripted`` board is the target openvino; a ``real`` one has the target cpu, and is this machine or at DEVICE.
"""

import sys

from kronexport.errors import KronexportError
from kronexport.farm.jobs import COMMAND, BoardSpec
from kronexport.farm.worker import serve

SCRIPTED = (sys.executable, "-m", "tests.farm.scripted_child")

if __name__ == "__main__":
    farm, lease, kind, *at = sys.argv[1:]
    device = at[0] if at else None
    try:
        serve(
            farm,
            BoardSpec("openvino" if kind == "scripted" else "cpu", device, sys.executable, lease),
            SCRIPTED if kind == "scripted" else COMMAND,
            tell=lambda text: print(text, flush=True),  # noqa: T201  how the test learns its name
        )
    except KronexportError as error:
        sys.exit(f"error: {error}")
