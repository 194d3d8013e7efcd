"""A Jetson stood in for by the loopback server: device tree and kind of machine are made up, trtexec is the double.

Its Python has no numpy, as that of a Jetson needs none.
"""

import os
import sys
from pathlib import Path
from typing import Final

from tests.backends.double import save_double
from tests.machines.server import Server

PYTHON: Final = os.path.realpath(sys.executable)
"""Without the packages of this environment."""

ORIN: Final = "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0"
XAVIER: Final = "nvidia,p2972-0000\0nvidia,tegra194\0"

_SITE = """
import builtins, os, platform, sys
sys.modules["numpy"] = None
_open = builtins.open
def _of_the_board(file, *arguments, **options):
    stand_in = ROOT + file if isinstance(file, str) else ""
    return _open(stand_in if stand_in and os.path.exists(stand_in) else file, *arguments, **options)
builtins.open = _of_the_board
platform.machine = lambda: "aarch64"
"""


def furnish(server: Server, release: str = "10.3", *, compatible: str = ORIN, fallback: str = "") -> None:
    """Let the server's board be an Orin with TensorRT of ``release``, or another."""
    root, site, tools = server.home / "root", server.home / "site", server.home / "tools"
    texts = {
        "proc/device-tree/compatible": compatible,
        "sys/firmware/devicetree/base/model": "a Jetson that is stood in for\0",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.0\n",
        "var/lib/nvpmodel/status": "pmode:0000\n",
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    for folder in (site, tools):
        folder.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(f"ROOT = {str(root)!r}\n{_SITE}", encoding="utf-8")
    save_double(tools / "trtexec", release, fallback)
    server.prelude = f"export PATH='{tools}':\"$PATH\" PYTHONPATH='{site}'; "


def timing_cache(server: Server, version: str) -> Path:
    """The timing cache that builds leave on the board: the only file that outlives a session."""
    (found,) = server.home.glob(f".cache/kronexport-board/*/timing-{version}.cache")
    return found
