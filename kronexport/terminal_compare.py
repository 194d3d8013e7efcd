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


def print_comparison(comparison: compare.Comparison) -> None:
    """What is compared, its figures and layers with ratios to the first, and what may not be compared."""
    console = plain_console()
    for subject in comparison.subjects:
        text = f"{subject.label}: {subject.model} on {subject.target}, {subject.report.precision} ({subject.source})"
        console.print(text, soft_wrap=True)
    console.print(_compared_figures(comparison))
    for line in _compared_layers(comparison):
        console.print(line, soft_wrap=True)
    for subject in comparison.subjects:
        console.print(f"{subject.label}: {speed_verdict(subject.report)}")
    for subject in comparison.subjects:
        for reason, keys in compare.unmeasured_reasons(subject).items():
            text = f"{subject.label}: not measured: {', '.join(keys)}: {reason}"
            console.print(text, soft_wrap=True)
    for difference in comparison.differences:
        console.print(f"warning: {difference}", soft_wrap=True)
    if comparison.differences:
        console.print("warning: ratios with * are of different protocols: no comparison")


def _compared_figures(comparison: compare.Comparison) -> Table:
    table = Table("", "", title="ratios are to the first; of an accuracy the difference", title_justify="left")
    for subject in comparison.subjects:
        table.add_column(subject.label, justify="right", overflow="fold")  # no digit is left out
    for name, label in _COMPARED.items():
        for side in ("dense", "compressed"):
            values = [compare.figure(getattr(subject.report, side), name) for subject in comparison.subjects]
            cells = [_compared_cell(comparison, index, name, values) for index in range(len(values))]
            table.add_row(label if side == "dense" else "", side, *cells)
    errors = [compare.output_error(subject) for subject in comparison.subjects]
    cells = [_compared_cell(comparison, index, "output_error", errors) for index in range(len(errors))]
    table.add_row("output error against dense", "compressed", *cells)
    trainings = [subject.report.recover for subject in comparison.subjects]
    if any(trainings):
        table.add_row("recovery", "compressed", *map(_training, trainings))
    return table


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
    is_timed = name not in ("params", "macs", "bytes", "accuracy", "output_error")
    mark = " *" if is_timed and not comparison.is_comparable(comparison.subjects[index]) else ""
    return f"{number(value)} ({f'{against:+.4g}' if name == 'accuracy' else f'{against:.3f}x'}){mark}"


def _compared_layers(comparison: compare.Comparison) -> Iterator[str]:
    """Each site's name on a line of its own, whole, then a line for each subject; structures last, as the longest."""
    lowerings = [layer.lowering for row in comparison.layers for layer in row.layers if layer is not None]
    line = f"  {{:3}}{{:{max(map(len, ['lowering', *lowerings]))}}}{{:>14}}{{:>10}}{{:>10}}{{:>11}}  {{}}"
    yield line.format("", "lowering", "MACs", "dense us", "us", "ratio", "structure")
    for row in comparison.layers:
        yield row.site
        for subject, layer in zip(comparison.subjects, row.layers, strict=True):
            if layer is None:
                yield f"  {subject.label:3}no such layer"
                continue
            ratio = compare.layer_ratios(row, layer)["us"]
            mark = "" if comparison.is_comparable(subject) else " *"
            times = number(layer.dense_us), number(layer.us), NO_VALUE if ratio is None else f"{ratio:.3f}x{mark}"
            yield line.format(subject.label, layer.lowering, number(layer.macs), *times, layer.structure)
