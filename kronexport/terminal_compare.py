"""What ``kronexport compare`` prints: figures in a table, layers in lines, and what may not be compared."""

from collections.abc import Iterator

from rich.table import Table

from kronexport.records import Training
from kronexport.ship import compare
from kronexport.ship.report_view import NO_VALUE, number
from kronexport.terminal import plain_console, speed_verdict

_COMPARED = {
    "params": "params",
    "macs": "MACs",
    "bytes": "model.onnx bytes",
    "latency_ms": "latency p50 ms",
    "peak_memory_bytes": "peak memory bytes",
    "build_peak_memory_bytes": "peak while loading or building bytes",
    "accuracy": "accuracy",
}

_KINDS: dict[str, compare.Kind] = {
    "macs": "MACs",
    "latency_ms": "latency",
    "peak_memory_bytes": "memory",
    "build_peak_memory_bytes": "memory",
}
"""What has to be alike for a figure to be compared; those of the networks alone always are."""

_MARK = " *"


def print_comparison(comparison: compare.Comparison) -> None:
    """What is compared, its figures and layers with ratios to the first, and what may not be compared."""
    console = plain_console()
    for subject in comparison.subjects:
        text = f"{subject.label}: {subject.model} on {subject.target}, {subject.report.precision} ({subject.source})"
        console.print(text, soft_wrap=True)
    figures, ratios = list(_compared_figures(comparison)), _layer_ratios(comparison)
    console.print(_table(comparison, figures))
    for line in _compared_layers(comparison, ratios):
        console.print(line, soft_wrap=True)
    for subject in comparison.subjects:
        console.print(f"{subject.label}: {speed_verdict(subject.report)}")
    for subject in comparison.subjects:
        for reason, keys in compare.unmeasured_reasons(subject).items():
            text = f"{subject.label}: not measured: {', '.join(keys)}: {reason}"
            console.print(text, soft_wrap=True)
    for difference in comparison.differences:
        console.print(f"warning: {difference}", soft_wrap=True)
    if any(text.endswith(_MARK) for texts in (*figures, *ratios) for text in texts):
        console.print("warning: ratios with * are of different protocols: no comparison")


def _table(comparison: compare.Comparison, rows: list[tuple[str, ...]]) -> Table:
    table = Table("", "", title="ratios are to the first; of an accuracy the difference", title_justify="left")
    for subject in comparison.subjects:
        table.add_column(subject.label, justify="right", overflow="fold")  # no digit is left out
    for row in rows:
        table.add_row(*row)
    return table


def _compared_figures(comparison: compare.Comparison) -> Iterator[tuple[str, ...]]:
    for name, label in _COMPARED.items():
        for side in ("dense", "compressed"):
            values = [compare.figure(getattr(subject.report, side), name) for subject in comparison.subjects]
            cells = [_compared_cell(comparison, index, name, values) for index in range(len(values))]
            yield label if side == "dense" else "", side, *cells
    errors = [compare.output_error(subject) for subject in comparison.subjects]
    cells = [_compared_cell(comparison, index, "output_error", errors) for index in range(len(errors))]
    yield "output error against dense", "compressed", *cells
    trainings = [subject.report.recover for subject in comparison.subjects]
    if any(trainings):
        yield "recovery", "compressed", *map(_training, trainings)


def _training(training: Training | None) -> str:
    """How the network was trained."""
    if training is None:
        return "none"
    return training.kind if training.epochs is None else f"{training.epochs} epochs"


def _compared_cell(comparison: compare.Comparison, index: int, name: str, values: list[float | None]) -> str:
    value = values[index]
    if value is None:
        return "not measured"
    against = compare.to_first(name, value, values[0])
    if index == 0 or against is None:
        return number(value)
    is_marked = name in _KINDS and not comparison.is_comparable(comparison.subjects[index], _KINDS[name])
    mark = _MARK if is_marked else ""
    return f"{number(value)} ({f'{against:+.4g}' if name == 'accuracy' else f'{against:.3f}x'}){mark}"


def _layer_ratios(comparison: compare.Comparison) -> list[list[str]]:
    """Of each site in each subject the time as a ratio to the first's."""
    marks = ["" if comparison.is_comparable(subject, "layer times") else _MARK for subject in comparison.subjects]
    table = []
    for row in comparison.layers:
        ratios = [None if layer is None else compare.layer_ratios(row, layer)["us"] for layer in row.layers]
        shown = zip(ratios, marks, strict=True)
        table.append([NO_VALUE if ratio is None else f"{ratio:.3f}x{mark}" for ratio, mark in shown])
    return table


def _compared_layers(comparison: compare.Comparison, ratios: list[list[str]]) -> Iterator[str]:
    """Each site's name on a line of its own, whole, then a line for each subject; structures last, as the longest."""
    lowerings = [layer.lowering for row in comparison.layers for layer in row.layers if layer is not None]
    line = f"  {{:3}}{{:{max(map(len, ['lowering', *lowerings]))}}}{{:>14}}{{:>10}}{{:>10}}{{:>11}}  {{}}"
    yield line.format("", "lowering", "MACs", "dense us", "us", "ratio", "structure")
    for row, shown in zip(comparison.layers, ratios, strict=True):
        yield row.site
        for subject, layer, ratio in zip(comparison.subjects, row.layers, shown, strict=True):
            if layer is None:
                yield f"  {subject.label:3}no such layer"
                continue
            times = number(layer.dense_us), number(layer.us), ratio
            yield line.format(subject.label, layer.lowering, number(layer.macs), *times, layer.structure)
