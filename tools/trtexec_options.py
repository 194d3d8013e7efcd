"""Makes tests/backends/data/trtexec_options.json: the options of trtexec by release, whole, of a file that lists them.

    python tools/trtexec_options.py FACTS.json tests/backends/data/trtexec_options.json

FACTS.json holds {"releases": {"8.2": ["avgRuns", ...], ...}}: the names that the option parser of each release branch
of NVIDIA/TensorRT knows (samples/common/sampleOptions.cpp), without the two dashes.
"""

import json
import sys
from pathlib import Path

NOTE = "Every option that trtexec's parser knows, by release branch of NVIDIA/TensorRT; names without the two dashes."
SOURCE = "https://github.com/NVIDIA/TensorRT, samples/common/sampleOptions.cpp"


def main(facts: Path, out: Path) -> None:
    """Releases in order, each list sorted: the file differs only where the facts do."""
    releases = json.loads(facts.read_text(encoding="utf-8"))["releases"]
    ordered = sorted(releases, key=lambda release: [int(number) for number in release.split(".")])
    table = {"note": NOTE, "source": SOURCE, "releases": {release: sorted(releases[release]) for release in ordered}}
    out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
