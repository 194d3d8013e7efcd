"""trtexec's double as an executable of a release, for tests alone."""

import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("trtexec_double.py")
VERSIONS = {"8.2": "8201", "8.5": "8502", "8.6": "8602", "10.3": "100300", "10.13": "101300", "10.16": "101600"}
VERSIONS["11.0"] = "110401"


def save_double(path: Path, release: str = "8.6", fallback: str = "") -> Path:
    """An executable at ``path`` that takes what trtexec of ``release`` takes."""
    lines = [
        "#!/bin/sh",
        f"export TRTEXEC_DOUBLE_RELEASE={release} TRTEXEC_DOUBLE_VERSION={VERSIONS[release]}",
        f"export TRTEXEC_DOUBLE_FALLBACK='{fallback}'",
        "unset PYTHONPATH",  # that of a board which is stood in for
        f'exec "{sys.executable}" "{SCRIPT}" "$@"',
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    path.chmod(0o755)
    return path
