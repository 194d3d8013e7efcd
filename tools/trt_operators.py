"""Makes kronexport/backends/trt_operators.json: what TensorRT's ONNX parser accepts, by release.

    python tools/trt_operators.py FACTS.json kronexport/backends/trt_operators.json

FACTS.json holds {"releases": {"8.6": {"commit", "max_opset", "operators": {"Conv": {"types", "restrictions"}}}}}: the
tables of docs/operators.md of onnx/onnx-tensorrt (Apache-2.0) at the commit of each release.
"""

import json
import sys
from pathlib import Path
from typing import Any

NOTE = "Operators that the ONNX parser of TensorRT accepts, with the types of their data, by release."
SOURCE = "https://github.com/onnx/onnx-tensorrt, docs/operators.md, at the commit of each release"
MISPRINTS = {"INF64": "INT64"}


def main(facts: Path, out: Path) -> None:
    """Types as lists, releases in order, an operator a line: the file differs only where the facts do."""
    releases = json.loads(facts.read_text(encoding="utf-8"))["releases"]
    ordered = sorted(releases, key=lambda release: [int(number) for number in release.split("-")[0].split(".")])
    parts = [_release(name, releases[name]) for name in ordered]
    text = f'{{\n "note": {json.dumps(NOTE)},\n "source": {json.dumps(SOURCE)},\n "releases": {{\n'
    out.write_text(text + ",\n".join(parts) + "\n }\n}\n", encoding="utf-8")


def _release(name: str, facts: dict[str, Any]) -> str:
    operators: dict[str, dict[str, str]] = facts["operators"]
    head = f'  {json.dumps(name)}: {{"commit": {json.dumps(facts["commit"])}, "max_opset": {facts["max_opset"]},'
    lines = [f"    {json.dumps(key)}: {json.dumps(_operator(operators[key]))}" for key in sorted(operators)]
    return head + '\n   "operators": {\n' + ",\n".join(lines) + "\n   }}"


def _operator(row: dict[str, str]) -> dict[str, Any]:
    types = [MISPRINTS.get(name.strip(), name.strip()) for name in row["types"].split(",") if name.strip()]
    return {"types": types, "restrictions": row["restrictions"]}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
