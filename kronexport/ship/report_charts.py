"""The charts of report.html, of one target: what its tables say, to be seen at a glance.

Each is None where there is nothing to draw. Nothing is drawn that report.json does not hold.
"""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from matplotlib.figure import Figure

from kronexport.records import LatencyStats, LayerFigures, TargetReport
from kronexport.ship.report_svg import Ink, inline_svg
from kronexport.ship.report_view import latency_of, number, timed_layers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH: Final = 5.6
"""Inches: narrow enough that 10 points can still be read on a phone."""

_FONT_SIZE: Final = 10
_CHARACTER: Final = 0.085
"""Inches that a character of this size takes."""

_AXIS_ROOM: Final = 0.5
_LEGEND_ROOM: Final = 0.35
_EDGE: Final = 0.12
"""Inches beside the axes: with their numbers and name, with a legend, and with nothing."""

_LABEL_ROOM: Final = 0.85
"""Part of an axis up to which a label has room at its right."""

_LONGEST_NAME: Final = 30
_CONTROL: Final = re.compile(r"[\x00-\x1f]")
_LEAST_DRAWN: Final = 1e-9
_MOST_DRAWN: Final = 1e3
"""Ends of the logarithmic axis of the error budget: float32 differs by more, and a relative error above 1 by little."""


def latency_chart(target: TargetReport, name: str) -> str | None:
    """From the fastest inference to p99: a thick bar from p50 to p95 with a mark at p50, dense above compressed."""
    sides = (
        ("dense", target.dense.latency_ms, Ink.DENSE),
        ("compressed", target.compressed.latency_ms, Ink.COMPRESSED),
    )
    timed = [(label, stats, ink) for label, stats, ink in sides if stats is not None]
    if not timed:
        return None
    figure, axes = _canvas(0.5 * len(timed), ["compressed"])
    end = 1.02 * max(stats.p99 for _, stats, _ in timed)
    for row, (_, stats, ink) in enumerate(timed):
        _distribution(axes, row, stats, ink)
        place = "right" if _is_near(stats.p50, end) else "center"
        axes.text(stats.p50, row - 0.42, f"p50 {number(stats.p50)}", ha=place, color=Ink.TEXT)
    _rows(axes, [label for label, _, _ in timed])
    axes.set_xlim(0, end)
    axes.set_xlabel("ms: line from fastest to p99, bar from p50 to p95", color=Ink.SOFT)
    return inline_svg(figure, name, "Latency of dense and compressed, from the fastest inference to p99")


def shares_chart(target: TargetReport, name: str) -> str | None:
    """What compressed needs as a percentage of dense, figure by figure."""
    dense, compressed = target.dense, target.compressed
    pairs = (
        ("parameters", dense.params, compressed.params),
        ("MACs", dense.macs, compressed.macs),
        ("model.onnx", dense.bytes, compressed.bytes),
        ("latency p50", latency_of(dense.latency_ms, "p50"), latency_of(compressed.latency_ms, "p50")),
        ("peak memory", dense.peak_memory_bytes, compressed.peak_memory_bytes),
    )
    shares = [(label, 100 * after / before) for label, before, after in pairs if before and after is not None]
    if not shares:
        return None
    figure, axes = _canvas(0.3 * len(shares), [label for label, _ in shares])
    widest = max(100.0, *(share for _, share in shares))
    axes.barh(range(len(shares)), [share for _, share in shares], height=0.6, color=Ink.COMPRESSED)
    axes.axvline(100, color=Ink.DENSE, linewidth=2)
    for row, (_, share) in enumerate(shares):
        axes.text(widest * 1.2, row, f"{share:.1f} %", ha="right", va="center", color=Ink.TEXT)
    _rows(axes, [label for label, _ in shares])
    axes.set_xlim(0, 1.2 * widest)
    axes.set_xlabel("percent of dense (the line at 100)", color=Ink.SOFT)
    return inline_svg(figure, name, "What compressed needs, in percent of dense")


def layers_chart(target: TargetReport, name: str) -> str | None:
    """Each layer dense and compressed: those that were timed by their time, or all by MACs where none was."""
    unit, dense_of, compressed_of = _BY_TIME if timed_layers(target) else _BY_MACS
    drawn = [layer for layer in target.layers if dense_of(layer) is not None and compressed_of(layer) is not None]
    if not drawn:
        return None
    names = [_shortened(layer.site) for layer in drawn]
    figure, axes = _canvas(0.2 + 0.24 * len(drawn), names, axis_on_top=True)
    rows = range(len(drawn))
    for offset, value_of, ink in ((-0.2, dense_of, Ink.DENSE), (0.2, compressed_of, Ink.COMPRESSED)):
        lengths = [value_of(layer) or 0.0 for layer in drawn]
        label = "dense" if ink is Ink.DENSE else "compressed"
        axes.barh([row + offset for row in rows], lengths, height=0.38, color=ink, label=label)
    _rows(axes, names)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel(unit, color=Ink.SOFT)
    axes.legend(frameon=False, labelcolor=Ink.TEXT, loc="upper right", bbox_to_anchor=(1, 0), ncols=2)
    return inline_svg(figure, name, f"{unit} of each layer, dense and compressed")


def budget_chart(target: TargetReport, name: str) -> str | None:
    """The relative L2 difference of each stage on a logarithmic axis, with a mark at its tolerance."""
    checks = [(check.stage, check.rel_l2, check) for check in target.verification if check.rel_l2 is not None]
    if not checks:
        return None
    figure, axes = _canvas(0.3 * len(checks), [stage for stage, _, _ in checks])
    axes.set_xscale("log")
    for row, (_, rel_l2, check) in enumerate(checks):
        ink = Ink.BAD if check.passed is False else Ink.COMPRESSED
        end = max(rel_l2, _LEAST_DRAWN)
        axes.barh(row, end - _LEAST_DRAWN, left=_LEAST_DRAWN, height=0.6, color=ink)
        axes.text(_MOST_DRAWN, row, number(rel_l2), ha="right", va="center", color=Ink.TEXT)
        if check.tolerance is not None:
            axes.plot([check.tolerance] * 2, [row - 0.4, row + 0.4], color=Ink.TEXT, linewidth=2)
    _rows(axes, [stage for stage, _, _ in checks])
    axes.set_xlim(_LEAST_DRAWN, _MOST_DRAWN)
    axes.set_xticks([1e-8, 1e-6, 1e-4, 1e-2, 1], ["1e-8", "1e-6", "1e-4", "1e-2", "1"])
    axes.minorticks_off()
    axes.set_xlabel("relative L2 against the stage before (the mark is the tolerance)", color=Ink.SOFT)
    return inline_svg(figure, name, "Difference of each stage against the one before, with its tolerance")


def front_chart(target: TargetReport, name: str) -> str | None:
    """Error against time, or against MACs where no time is known: the plan among what else could be chosen."""
    if not target.pareto:
        return None
    timed = all(point.latency is not None for point in target.pareto)
    across = [100 * (point.latency if point.latency is not None and timed else point.macs) for point in target.pareto]
    end = 1.08 * max(100, *across)
    figure, axes = _canvas(2.2, ["error  "])
    axes.plot(across, [point.error for point in target.pareto], color=Ink.LINE, linewidth=1, zorder=1)
    for share, point in zip(across, target.pareto, strict=True):
        ink, size = (Ink.COMPRESSED, 9) if point.chosen else (Ink.DENSE, 6)
        axes.plot([share], [point.error], "o", color=ink, markersize=size, markeredgewidth=0)
        if point.chosen:
            aside, place = (-6, "right") if _is_near(share, end) else (6, "left")
            at = share, point.error
            axes.annotate("the plan", at, (aside, 6), textcoords="offset points", ha=place, color=Ink.TEXT)
    axes.set_xlim(0, end)
    axes.set_ylim(0, 1.15 * max(0.01, *(point.error for point in target.pareto)))
    axes.set_ylabel("error", color=Ink.SOFT)
    what = "time of the layers that can be factorized" if timed else "MACs"
    axes.set_xlabel(f"{what}, percent of dense", color=Ink.SOFT)
    return inline_svg(figure, name, f"Error against {what}: the plan among what else could be chosen")


def _distribution(axes: "Axes", row: int, stats: LatencyStats, ink: Ink) -> None:
    axes.plot([stats.min, stats.p99], [row, row], color=ink, linewidth=2)
    axes.barh(row, stats.p95 - stats.p50, left=stats.p50, height=0.4, color=ink)
    axes.plot([stats.p50] * 2, [row - 0.35, row + 0.35], color=Ink.TEXT, linewidth=2)


def _is_near(value: float, end: float) -> bool:
    """Whether a label at ``value`` would be cut off at the ``end`` of the axis."""
    return value > _LABEL_ROOM * end


def _canvas(height: float, labels: Sequence[str], *, axis_on_top: bool = False) -> tuple[Figure, "Axes"]:
    """A figure with one plain pair of axes, ``height`` inches high, and room for ``labels`` at its left side.

    Below an axis on top there is a legend.
    """
    low, high = (_LEGEND_ROOM, _AXIS_ROOM) if axis_on_top else (_AXIS_ROOM, _EDGE)
    whole = height + low + high
    figure = Figure(figsize=(_WIDTH, whole))
    left = _EDGE + _CHARACTER * max(map(len, labels))
    figure.subplots_adjust(left / _WIDTH, low / whole, 1 - _EDGE / _WIDTH, 1 - high / whole)
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(Ink.LINE)
    axes.tick_params(length=0, labelsize=_FONT_SIZE, labelcolor=Ink.TEXT)
    return figure, axes


def _rows(axes: "Axes", labels: Sequence[str]) -> None:
    """Names the rows of a horizontal chart, the first on top."""
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.set_ylim(len(labels) - 0.4, -0.7)


def _shortened(site: str) -> str:
    """The end of a long name, which tells layers apart; without control characters, which no SVG can hold."""
    plain = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", site)
    return plain if len(plain) <= _LONGEST_NAME else f"…{plain[1 - _LONGEST_NAME :]}"


_Value = Callable[[LayerFigures], float | None]

_BY_TIME: Final[tuple[str, _Value, _Value]] = (
    "microseconds",
    lambda layer: layer.dense_us,
    lambda layer: layer.us,
)
_BY_MACS: Final[tuple[str, _Value, _Value]] = (
    "MACs",
    lambda layer: layer.dense_macs,
    lambda layer: layer.macs,
)
