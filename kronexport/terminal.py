"""What the commands print for people on stdout: tables of 80 columns, no colour into a pipe."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Column, Table

from kronexport.records import LatencyStats, ModelFigures, Report, TargetReport
from kronexport.ship.report_view import NO_VALUE, difference, null_reason, number

if TYPE_CHECKING:
    from kronexport.backends.doctor import Finding
    from kronexport.backends.profile import TargetProfile
    from kronexport.measure.latency import BenchResult
    from kronexport.pipeline import DryRun
    from kronexport.records import ParetoPoint, Plan

_COUNTED = "params", "macs", "bytes"


def plain_console() -> Console:
    """On stdout, for text as it is: names and notes may have brackets and colons in them."""
    return Console(markup=False, emoji=False, highlight=False)


def print_report(report: Report) -> None:
    """The figures of every target, dense against compressed, and a line for each at the end."""
    console = plain_console()
    for name, target in report.targets.items():
        table = Table(title=f"{report.model} on {name}", title_justify="left")
        for column in ("", "dense", "compressed", "ratio"):
            table.add_column(column, justify="left" if not column else "right")
        for row in _rows(target):
            table.add_row(*row)
        console.print(table)
        console.print(speed_verdict(target))
        for goal in target.goals:
            state = {True: "met", False: "MISSED", None: "not measured"}[goal.met]
            reached = f", reached {goal.reached}" if goal.reached else ""
            console.print(f"goal {goal.expr}: {state}{reached}")
        for check in target.verification:
            if check.rel_l2 is not None:
                limit = "an approximation" if check.tolerance is None else f"at most {check.tolerance:.0e}"
                console.print(f"{check.stage} against {check.against}: {check.rel_l2:.1e} ({limit})")
        for reason, sites in _skipped(target).items():
            more = f" and {len(sites) - 1} more" if len(sites) > 1 else ""
            console.print(f"skipped {sites[0]}{more}: {reason}")
        for note in target.notes:
            console.print(f"note: {note}")
    console.print(_summary(report))


def _summary(report: Report) -> Table:
    """What became of each target, as parts of dense."""
    table = _table("target", "speed-up", "params", "MACs", "bytes", "accuracy", "goals", title="compressed / dense")
    for name, target in report.targets.items():
        ratios = (_row("", getattr(target.dense, key), getattr(target.compressed, key), "{}")[3] for key in _COUNTED)
        table.add_row(name, _speedup(target), *ratios, _accuracy(target.dense, target.compressed)[3], _goals(target))
    return table


def _speedup(target: TargetReport) -> str:
    if target.speedup is None:
        return NO_VALUE
    return f"{target.speedup.median:.2f}x{' (noise)' if target.speedup.verdict == 'within noise' else ''}"


def _goals(target: TargetReport) -> str:
    met = sum(goal.met is True for goal in target.goals)
    return f"{met} of {len(target.goals)} met" if target.goals else NO_VALUE


def _table(*columns: str, title: str, numbers: Sequence[str] = ()) -> Table:
    """A table in which long names are folded, and ``numbers`` are whole and at the right."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        is_number = column in numbers
        table.add_column(column, overflow="fold", no_wrap=is_number, justify="right" if is_number else "left")
    return table


def print_bench(result: "BenchResult", baseline: str = "dense") -> None:
    """Latencies and the paired ratio to the first model, which is called ``baseline``."""
    table = Table(Column("", overflow="fold"), "n", "p50 ms", "p95 ms", "p99 ms")
    for index, (name, stats) in enumerate(result.latency_ms.items()):
        figures = (f"{value:.3f}" for value in (stats.p50, stats.p95, stats.p99))
        table.add_row(name if index else baseline, str(stats.n), *figures)
    console = plain_console()
    console.print(table)
    for name, speedup in result.speedups.items():
        low, high = speedup.ci95
        text = f"{name}: {speedup.median:.2f}x as fast as {baseline}, 95 % {low:.2f} to {high:.2f}: {speedup.verdict}"
        console.print(text, soft_wrap=True)


def plan_json(found: "DryRun") -> dict[str, Any]:
    """What a dry run found, as JSON values."""
    survey = found.project.survey
    return {
        "model": found.project.name,
        "params": survey.params,
        "macs": survey.macs,
        "skipped": [{"site": entry.site, "reason": entry.reason} for entry in survey.skipped],
        "targets": {
            plan.target: [
                {
                    "site": choice.site,
                    "structure": None if choice.structure is None else str(choice.structure),
                    "ranks": [] if choice.structure is None else list(choice.structure.ranks),
                    "lowering": choice.lowering,
                    "params": choice.params,
                    "macs": choice.macs,
                    "rel_error": choice.rel_error,
                    "reason": choice.reason,
                }
                for choice in plan.sites
            ]
            for plan in found.plans
        },
        "pareto": {plan.target: [asdict(point) for point in plan.pareto] for plan in found.plans},
        "notes": {plan.target: list(plan.notes) for plan in found.plans},
    }


def print_plan(found: "DryRun") -> None:
    """The plan of each target, site by site, and what is skipped."""
    console = plain_console()
    for plan in found.plans:
        columns = "site", "structure", "rank", "lowering", "MACs", "error"
        table = _table(*columns, title=f"plan for {plan.target}", numbers=("MACs", "error"))
        for choice in plan.sites:
            structure = "dense" if choice.structure is None else str(choice.structure)
            ranks = "" if choice.structure is None else ",".join(map(str, choice.structure.ranks))
            macs = f"{choice.macs / 1e6:.2f}M"
            error = "" if choice.rel_error is None else f"{choice.rel_error:.3f}"
            table.add_row(choice.site, structure, ranks, choice.lowering, macs, error)
        console.print(table)
        for name, total in _planned(found, plan).items():
            dense = getattr(found.project.survey, name)
            console.print(f"{name}: {total:,} of {dense:,} = {total / dense:.3f}")
        if plan.pareto:
            console.print(_front(plan.pareto))
        for note in plan.notes:
            console.print(f"note: {note}")
    for skipped in found.project.survey.skipped:
        console.print(f"skipped {skipped.site}: {skipped.reason}")


def _front(points: "Sequence[ParetoPoint]") -> Table:
    """The plan among what else could be chosen."""
    numbers = "time", "MACs", "params", "error"
    table = _table(*numbers, "seconds", "", title="what else could be chosen, as parts of dense", numbers=numbers)
    for point in points:
        latency = "" if point.latency is None else f"{point.latency:.3f}"
        figures = latency, f"{point.macs:.3f}", f"{point.params:.3f}", f"{point.error:.3f}"
        table.add_row(*figures, point.basis, "the plan" if point.chosen else "")
    return table


def _planned(found: "DryRun", plan: "Plan") -> dict[str, int]:
    """Params and MACs of the whole network as planned."""
    survey = found.project.survey
    return {
        name: getattr(survey, name)
        - sum(getattr(site, name) for site in survey.sites)
        + sum(getattr(choice, name) for choice in plan.sites)
        for name in ("params", "macs")
    }


def print_target(profile: "TargetProfile") -> None:
    """One line a value by its dotted key; below it where the value comes from, and what nobody has checked."""
    console = plain_console()

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    plain = profile.name.partition("@")[0]
    variants = [plain, *(f"{plain}@{variant}" for variant in profile.variants)] if profile.variants else []
    values = profile.model_dump(mode="json", exclude={"facts", "variants"})
    for key, value in {**dict(_flat(values)), "variants": variants}.items():
        say(f"{key}: {_as_text(value)}")
        if (fact := profile.facts.get(key)) is not None:
            say(f"    {fact.value}")
            say(f"    source: {fact.source}")
            if fact.unverified is not None:
                say(f"    unverified: {fact.unverified}")


def print_findings(findings: "Sequence[Finding]") -> None:
    """One line a finding: whether it is there, what that means, and what mends it.

    ``absent`` is what a build can do without, ``missing`` what it lacks, ``wrong`` what is there and does not serve.
    """
    console = plain_console()
    for finding in findings:
        good, bad = ("ok", "wrong") if finding.present else ("absent", "missing")
        found = "; ".join(text for text in (finding.version, finding.means) if text) or "-"
        remedy = "" if finding.ok or not finding.remedy else f"  ->  {finding.remedy}"
        line = f"{good if finding.ok else bad:7} {finding.name}: {found}{remedy}"
        console.print(line, soft_wrap=True)


def _rows(target: TargetReport) -> Iterator[tuple[str, str, str, str]]:
    dense, compressed = target.dense, target.compressed
    for label, field in (("params", "params"), ("MACs", "macs"), ("model.onnx bytes", "bytes")):
        yield _row(label, getattr(dense, field), getattr(compressed, field), "{:,}")
    yield _row("latency p50 ms", _p50(dense.latency_ms), _p50(compressed.latency_ms), "{:.3f}")
    yield _row("weight bytes", dense.weight_bytes, compressed.weight_bytes, "{:,}")
    yield _row("activation bytes", dense.activation_bytes, compressed.activation_bytes, "{:,}")
    yield _row("peak memory bytes", dense.peak_memory_bytes, compressed.peak_memory_bytes, "{:,}")
    yield _accuracy(dense, compressed)


def _row(label: str, dense: float | None, compressed: float | None, form: str) -> tuple[str, str, str, str]:
    before, after = ("not measured" if value is None else form.format(value) for value in (dense, compressed))
    return label, before, after, f"{compressed / dense:.3f}" if dense and compressed is not None else ""


def _accuracy(dense: ModelFigures, compressed: ModelFigures) -> tuple[str, str, str, str]:
    pair = dense.accuracy, compressed.accuracy
    before, after = ("not measured" if value is None else number(value) for value in pair)
    return "accuracy", before, after, "" if pair[0] is None or pair[1] is None else difference(pair[0], pair[1])


def _p50(stats: LatencyStats | None) -> float | None:
    return None if stats is None else stats.p50


def _skipped(target: TargetReport) -> dict[str, list[str]]:
    """Sites by the reason that they stay as they are."""
    reasons: dict[str, list[str]] = {}
    for entry in target.skipped:
        reasons.setdefault(entry.reason, []).append(entry.site)
    return reasons


def speed_verdict(target: TargetReport) -> str:
    """The speed-up with its interval, or why there is none."""
    if target.speedup is None:
        return f"speed: not measured ({null_reason(target, 'speedup')})"
    low, high = target.speedup.ci95
    return f"speed-up {target.speedup.median:.2f}x, 95 % {low:.2f} to {high:.2f}: {target.speedup.verdict}"


def _flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested tables by its dotted key."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return "-" if value is None else str(value)
