"""A double of agent.py: what a model takes follows from its bytes and from how fast the board is, so it never changes.

    python scripted_agent.py JOB.json RESULT.json

The environment variable FARM_BOARD names the board's JSON file: "speed" (2: all takes twice as long), "seconds" that
each job really takes, what its environment has instead of the usual, "momentary", by which a reference makes the speed
1, "again", to which a race makes it then, and "lost", which kills the agent. FARM_LOG names a file that gets a line of
JSON for each job when it begins, and one when it ends.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ENVIRONMENT: dict[str, Any] = {
    "cpu_model": "scripted",
    "cpu_features": ["avx2"],
    "machine": "x86_64",
    "runtime_version": "2099.1",
    "power_mode": None,
    "compatible": [],
    "board": "a scripted board",
    "logical_cores": 2,
    "affinity": [0, 1],
    "cpu_quota": None,
    "before": {},
}


def milliseconds(model: dict[str, Any]) -> float:
    """Of one inference on a board of speed 1."""
    if model["name"] == "reference":
        return 1.0
    digest = hashlib.sha256(Path(model["path"]).read_bytes()).digest()
    return 0.2 + 2 * int.from_bytes(digest[:4], "big") / 2**32


def timed(job: dict[str, Any], speed: float) -> dict[str, Any]:
    """The result of a race or a bench, in which whatever is not the first network is slower."""
    times = {model["name"]: speed * milliseconds(model) for model in job["models"]}
    first, *others = times
    stats = ("min", "mean", "p50", "p90", "p95", "p99")
    models = [
        {
            "name": name,
            "latency_ms": {"n": job["rounds"], "std": 0.0, **dict.fromkeys(stats, ms)},
            "samples_ms": [[ms]] * job["rounds"],
            "floor_ms": ms,
        }
        for name, ms in times.items()
    ]
    ratios = {name: times[first] / times[name] for name in others}
    if job["task"] == "bench":
        ratios = dict.fromkeys(others, 0.9)
        models = [{key: value for key, value in model.items() if key != "floor_ms"} for model in models]
    speedups = {name: {"median": ratio, "ci95": [ratio, ratio], "verdict": "slower"} for name, ratio in ratios.items()}
    return {"models": models, "speedups": speedups, "failed": {}, "protocol": {}}


def log(**told: Any) -> None:
    with Path(os.environ["FARM_LOG"]).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"board": os.environ["FARM_BOARD"], **told}) + "\n")


def main() -> None:
    """One job."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    board = json.loads(Path(os.environ["FARM_BOARD"]).read_text(encoding="utf-8"))
    names = [model["name"] for model in job.get("models", ())]
    digests = [hashlib.sha256(Path(model["path"]).read_bytes()).hexdigest() for model in job.get("models", ())]
    log(event="begin", task=job["task"], names=names, models=digests, pid=os.getpid())
    if names != ["reference"] and names:
        time.sleep(board.get("seconds", 0))
    result = {} if job["task"] == "probe" else timed(job, board["speed"])
    environment = {**ENVIRONMENT, "runtime": job["runtime"], **board.get("environment", {})}
    Path(sys.argv[2]).write_text(
        json.dumps({**result, "task": job["task"], "environment": environment}), encoding="utf-8"
    )
    speed = 1.0 if names == ["reference"] else board.get("again", board["speed"])
    if board.get("momentary"):
        Path(os.environ["FARM_BOARD"]).write_text(json.dumps({**board, "speed": speed}), encoding="utf-8")
    log(event="end", task=job["task"], names=names, models=digests)


if __name__ == "__main__":
    main()
