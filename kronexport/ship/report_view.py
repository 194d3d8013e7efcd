"""What report.html says about one target: sentences and table rows, formatted but not yet HTML.

Figures are shown in full, never rounded to a unit that hides a difference; a null is shown as "not measured" with
its reason.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kronexport.records import Check, GoalResult, LatencyStats, LayerFigures, ModelFigures, Speedup, TargetReport

NO_VALUE = "-"
_LONGEST_LIST = 8
_SHOWN_WHOLE = 1e4


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure as it is shown, and as report.json holds it; None where there is none."""

    text: str
    value: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of both networks; ``change`` is compressed/dense, or a difference where a ratio means nothing."""

    label: str
    dense: Cell
    compressed: Cell
    change: str


def headline(target: TargetReport) -> str:
    """The verdict in one sentence: speed, parameters, MACs and accuracy against dense."""
    dense, compressed = target.dense, target.compressed
    shares = f"{_ratio(dense.params, compressed.params)} the parameters, {_ratio(dense.macs, compressed.macs)} the MACs"
    accuracy = "accuracy not measured"
    if dense.accuracy is not None and compressed.accuracy is not None:
        accuracy = f"accuracy {dense.accuracy:.4g} to {compressed.accuracy:.4g}"
    return f"{_speed_headline(target.speedup)}: {shares}, {accuracy}."


def verdict(target: TargetReport) -> str:
    """The one paragraph that answers what became of the network: speed, size, accuracy, goals, verification."""
    sentences = (
        _speed_sentence(target),
        _size_sentence(target.dense, target.compressed),
        _accuracy_sentence(target.dense, target.compressed),
        _goals_sentence(target.goals),
        _checks_sentence(target.verification),
    )
    return " ".join(sentence for sentence in sentences if sentence)


def comparison(target: TargetReport) -> list[Row]:
    """Dense against compressed, figure by figure."""
    dense, compressed = target.dense, target.compressed
    rows = [
        _row(target, "Parameters", "params", dense.params, compressed.params),
        _row(target, "MACs", "macs", dense.macs, compressed.macs),
        _row(target, "Size of model.onnx (bytes)", "bytes", dense.bytes, compressed.bytes),
    ]
    for name in ("p50", "p90", "p95", "p99", "min", "mean"):
        pair = latency_of(dense.latency_ms, name), latency_of(compressed.latency_ms, name)
        rows.append(_row(target, f"Latency {name} (ms)", "latency_ms", *pair))
    for label, name in (("Latency std (ms)", "std"), ("Inferences timed (n)", "n")):
        before, after = latency_of(dense.latency_ms, name), latency_of(compressed.latency_ms, name)
        if before is not None or after is not None:
            rows.append(Row(label, Cell(number(before), before), Cell(number(after), after), NO_VALUE))
    for label, key in (
        ("Weights (bytes, counted)", "weight_bytes"),
        ("Activations alive at once (bytes, counted)", "activation_bytes"),
        ("Peak memory (bytes)", "peak_memory_bytes"),
        ("Peak while loading or building (bytes)", "build_peak_memory_bytes"),
    ):
        rows.append(_row(target, label, key, getattr(dense, key), getattr(compressed, key)))
    return [*rows, _accuracy_row(target)]


def null_reason(target: TargetReport, *keys: str) -> str | None:
    """Why a figure is null: the reason under the first of ``keys`` that has one, or None.

    It is said after "not measured", which a reason that is for itself begins with.
    """
    reasons = (target.unmeasured[key] for key in keys if target.unmeasured.get(key))
    return next((reason.removeprefix("not measured: ") for reason in reasons), None)


def latency_of(stats: LatencyStats | None, name: str) -> float | None:
    """One of the statistics; None where nothing was timed."""
    return None if stats is None else getattr(stats, name)


def layer_speedup(layer: LayerFigures) -> float | None:
    """Dense over compressed time of the layer, alone or in TensorRT's profile; None where it was not timed."""
    return layer.dense_us / layer.us if layer.dense_us is not None and layer.us else None


def timed_layers(target: TargetReport) -> list[LayerFigures]:
    """Those whose time is known both dense and compressed."""
    return [layer for layer in target.layers if layer.dense_us is not None and layer.us is not None]


def goal_status(goal: GoalResult) -> str:
    """``met``, ``missed`` or ``not measured``."""
    return {True: "met", False: "missed", None: "not measured"}[goal.met]


def check_status(check: Check) -> str:
    """``passed``, ``failed``, ``approximation``, or ``not run`` where there was nothing to run on."""
    if check.stage == "factorized" and check.passed is None:
        return "approximation"
    return {True: "passed", False: "failed", None: "not run"}[check.passed]


def first_command(name: str, target: TargetReport) -> str:
    """What is run first of a bundle on its device: run.py, or what TensorRT needs, which run.py does not open."""
    if any(check.stage == "compiled" and check_status(check) == "not run" for check in target.verification):
        return f"./{name}/build_engine.sh"
    is_engine = target.environment.get("runtime") == "tensorrt"
    return f"trtexec --loadEngine={name}/model.engine" if is_engine else f"python {name}/run.py check"


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name and text of every entry of a nested mapping; nested names are dotted, long lists only counted."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        elif isinstance(value, list | tuple) and len(value) > _LONGEST_LIST:
            yield name, f"{len(value)} values"
        else:
            yield name, "unknown" if value is None else str(value)


def number(value: float | None) -> str:
    """A figure in full: whole or large ones with thousands separators, others with four significant digits."""
    if value is None:
        return NO_VALUE
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= _SHOWN_WHOLE else f"{value:.4g}"


def difference(dense: float, compressed: float) -> str:
    """What compressed has more than dense, with its sign: of a figure of which a ratio says nothing."""
    return f"{compressed - dense:+.4g}"


def _ratio(dense: float | None, compressed: float | None) -> str:
    return f"{compressed / dense:.3f}x" if dense and compressed is not None else NO_VALUE


def _row(target: TargetReport, label: str, key: str, dense: float | None, compressed: float | None) -> Row:
    return Row(
        label,
        _cell(target, "dense", key, dense),
        _cell(target, "compressed", key, compressed),
        _ratio(dense, compressed),
    )


def _cell(target: TargetReport, side: str, key: str, value: float | None) -> Cell:
    if value is not None:
        return Cell(number(value), value)
    return Cell(f"not measured: {null_reason(target, f'{side}.{key}') or 'no reason given'}", None)


def _accuracy_row(target: TargetReport) -> Row:
    dense, compressed = target.dense.accuracy, target.compressed.accuracy
    change = difference(dense, compressed) if dense is not None and compressed is not None else NO_VALUE
    cells = _cell(target, "dense", "accuracy", dense), _cell(target, "compressed", "accuracy", compressed)
    return Row("Accuracy (evaluator's units)", *cells, change)


def _speed_headline(speedup: Speedup | None) -> str:
    if speedup is None:
        return "Speed not measured"
    if speedup.verdict == "within noise":
        return "As fast as dense, within the noise"
    return f"{speedup.median:.2f}x as fast as dense"


def _speed_sentence(target: TargetReport) -> str:
    if target.speedup is None:
        return f"Speed not measured: {null_reason(target, 'speedup') or 'no reason given'}."
    return {
        "faster": "Faster than dense: {0}.",
        "slower": "Slower than dense: {0}.",
        "within noise": "No difference in speed beyond the noise: {0}.",
    }[target.speedup.verdict].format(_speed_figures(target.speedup))


def _speed_figures(speedup: Speedup) -> str:
    low, high = speedup.ci95
    return f"{speedup.median:.3f}x its speed (95 % interval {low:.3f} to {high:.3f})"


def _size_sentence(dense: ModelFigures, compressed: ModelFigures) -> str:
    params, macs = _ratio(dense.params, compressed.params), _ratio(dense.macs, compressed.macs)
    return f"Of dense: {params} the parameters, {macs} the MACs, {_ratio(dense.bytes, compressed.bytes)} the bytes."


def _accuracy_sentence(dense: ModelFigures, compressed: ModelFigures) -> str:
    if dense.accuracy is None or compressed.accuracy is None:
        return "Accuracy not measured."
    change = difference(dense.accuracy, compressed.accuracy)
    return f"Accuracy {dense.accuracy:.4g} to {compressed.accuracy:.4g} ({change})."


def _goals_sentence(goals: tuple[GoalResult, ...]) -> str:
    if not goals:
        return ""
    return "Goals: " + ", ".join(f"{goal.expr} {goal_status(goal)}" for goal in goals) + "."


def _checks_sentence(checks: tuple[Check, ...]) -> str:
    judged = [check for check in checks if check.passed is not None]
    failed = [check.stage for check in judged if not check.passed]
    if failed:
        return f"Verification FAILED: {', '.join(failed)}."
    not_run = [check.stage for check in checks if check_status(check) == "not run"]
    rest = f"; not run: {', '.join(not_run)}" if not_run else ""
    return f"{len(judged)} of {len(judged)} checks passed{rest}." if judged else f"No check was run{rest}."
