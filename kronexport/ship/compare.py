"""Builds side by side: what ``kronexport compare`` says of any number of outputs, reports and bundles."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Final, Literal

from kronexport.errors import BundleError, UserInputError
from kronexport.records import LayerFigures, ModelFigures, Report, TargetReport
from kronexport.ship.bundle import MANIFEST_FILE, RUN_FILE, SUMS_FILE, read_bundle
from kronexport.ship.manifest import MODEL_FILE
from kronexport.ship.output import OutputFolder
from kronexport.ship.report_json import read_report_json
from kronexport.ship.report_view import flatten, null_reason

NOT_RECORDED: Final = "not recorded"

_GROUND: Final = (
    "cpu_model",
    "cpu_features",
    "machine",
    "logical_cores",
    "affinity",
    "cpu_quota",
    "governor",
    "power_mode",
    "kernel",
    "runtime",
    "runtime_version",
    "runtime_options",
)
"""Of the environment what figures stand on; the rest of it changes while one measures, or is beside the point."""

_FIGURES: Final = ("params", "macs", "bytes", "latency_ms", "peak_memory_bytes", "build_peak_memory_bytes", "accuracy")
_LAYER_FIGURES: Final = ("params", "macs", "dense_us", "us")

Kind = Literal["latency", "memory", "layer times", "speed-up", "MACs"]
"""Of figures: what a difference may make incomparable."""

_TIMED: Final[tuple[Kind, ...]] = ("latency", "memory", "layer times", "speed-up")
_LAYER_TIMES: Final = "layer_times"
"""Of the protocol: what the microseconds of layers are of, of which the networks' are independent."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One of what is compared: what a report says of one target. ``source`` is the path as the user named it."""

    label: str
    source: str
    model: str
    target: str
    report: TargetReport


@dataclass(frozen=True, slots=True)
class Difference:
    """A condition that is not the same for all, by label, and the kinds of figures that it makes incomparable."""

    what: str
    values: dict[str, str]
    affects: tuple[Kind, ...]

    def __str__(self) -> str:
        values = ", ".join(f"{value} ({label})" for label, value in self.values.items())
        return f"not comparable: {self.what}: {values}: {', '.join(self.affects)}"


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer by its module's name, in each of the subjects; None where it has no such layer."""

    site: str
    layers: tuple[LayerFigures | None, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two or more subjects; what they have is set against the first."""

    subjects: tuple[Subject, ...]
    differences: tuple[Difference, ...]
    layers: tuple[LayerRow, ...]

    def is_comparable(self, subject: Subject, kind: Kind = "latency") -> bool:
        """Whether the figures of a kind stand on the same ground as those of the first, as far as one can know."""
        first = self.subjects[0].label
        return all(
            kind not in difference.affects
            or first not in difference.values
            or subject.label not in difference.values
            or difference.values[first] == difference.values[subject.label]
            for difference in self.differences
        )


def compare(paths: Sequence[Path]) -> Comparison:
    """What ``paths`` hold, side by side.

    Args:
        paths: OUT folders, report.json files or bundles (OUT/<target>); a report counts once for each of its targets.

    Raises:
        UserInputError: A path is none of these, a bundle has no report beside it, or there are fewer than two networks.
        BundleError: A bundle is damaged, or is not the one that the report tells of.
    """
    found = [(path, report, target) for path in paths for report, targets in [_read(path)] for target in targets]
    if len(found) < 2:  # noqa: PLR2004  one alone has nothing to be compared with
        raise UserInputError(
            f"{', '.join(map(str, paths))}: {len(found)} network, expected two or more; name another output, "
            "report.json or bundle"
        )
    subjects = tuple(
        Subject(_label(index), str(path), report.model, target, report.targets[target])
        for index, (path, report, target) in enumerate(found)
    )
    return Comparison(subjects, _differences(subjects), _layer_rows(subjects))


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """``kronexport compare --json``: figures under the keys of report.json, ratios to the first under ``to_first``."""
    first = comparison.subjects[0]
    return {
        "compared": [
            {
                "label": subject.label,
                "source": subject.source,
                "model": subject.model,
                "target": subject.target,
                "precision": subject.report.precision,
                "dense": asdict(subject.report.dense),
                "compressed": asdict(subject.report.compressed),
                "speedup": asdict(subject.report.speedup) if subject.report.speedup else None,
                "unmeasured": subject.report.unmeasured,
                "comparable": comparison.is_comparable(subject),
                "to_first": {
                    f"{side}.{name}": to_first(
                        name, figure(_side(subject, side), name), figure(_side(first, side), name)
                    )
                    for side in ("dense", "compressed")
                    for name in _FIGURES
                }
                | {"compressed.output_error": to_first("output_error", output_error(subject), output_error(first))},
                "output_error": output_error(subject),
                "recover": asdict(subject.report.recover) if subject.report.recover else None,
            }
            for subject in comparison.subjects
        ],
        "layers": [
            {
                "site": row.site,
                "compared": {
                    subject.label: None if layer is None else {**asdict(layer), "to_first": layer_ratios(row, layer)}
                    for subject, layer in zip(comparison.subjects, row.layers, strict=True)
                },
            }
            for row in comparison.layers
        ],
        "differences": [asdict(difference) for difference in comparison.differences],
        "warnings": [str(difference) for difference in comparison.differences],
    }


def figure(figures: ModelFigures, name: str) -> float | None:
    """One figure of a network; of the latency its p50, in milliseconds."""
    if name == "latency_ms":
        return None if figures.latency_ms is None else figures.latency_ms.p50
    value: float | None = getattr(figures, name)
    return value


def output_error(subject: Subject) -> float | None:
    """||y - y_dense|| / ||y_dense|| of the compressed network in PyTorch, over the golden batch."""
    return next((check.rel_l2 for check in subject.report.verification if check.stage == "factorized"), None)


def to_first(name: str, value: float | None, first: float | None) -> float | None:
    """``value`` as a ratio to the first, of an accuracy the difference; None where either was not measured."""
    if value is None or first is None:
        return None
    if name == "accuracy":
        return value - first
    return value / first if first else None


def layer_ratios(row: LayerRow, layer: LayerFigures) -> dict[str, float | None]:
    """The layer's figures as ratios to those of the first subject's layer; None where there is nothing to divide."""
    first = row.layers[0]
    return {
        name: None if first is None else to_first(name, getattr(layer, name), getattr(first, name))
        for name in _LAYER_FIGURES
    }


def unmeasured_reasons(subject: Subject) -> dict[str, list[str]]:
    """What was not measured of the subject, by the reason."""
    reasons: dict[str, list[str]] = {}
    for side in ("dense", "compressed"):
        for name in _FIGURES:
            if figure(_side(subject, side), name) is None:
                reason = null_reason(subject.report, f"{side}.{name}") or "no reason given"
                reasons.setdefault(reason, []).append(f"{side}.{name}")
    for name in ("dense_us", "us"):
        missing = next((layer for layer in subject.report.layers if getattr(layer, name) is None), None)
        if missing is not None:
            keys = f"layers.{missing.site}.{name}", f"layers.{name}"
            reasons.setdefault(null_reason(subject.report, *keys) or "no reason given", []).append(f"layers.{name}")
    return reasons


def _side(subject: Subject, side: str) -> ModelFigures:
    return subject.report.dense if side == "dense" else subject.report.compressed


def _label(index: int) -> str:
    """A to Z, then A1, B1 and so on."""
    turn, letter = divmod(index, len(ascii_uppercase))
    return f"{ascii_uppercase[letter]}{turn or ''}"


def _read(path: Path) -> tuple[Report, list[str]]:
    """The report that ``path`` leads to, and which of its targets are meant."""
    if path.is_file():
        report = read_report_json(path)
        return report, list(report.targets)
    if (path / "report.json").is_file():
        report = read_report_json(path / "report.json")
        bundles = {target: OutputFolder(path).bundle(target) for target in report.targets}
        for target, bundle in bundles.items():
            if bundle.is_dir():
                read_bundle(bundle)
                _check_told_of(bundle, report, target)
        return report, list(report.targets)
    if any((path / name).exists() for name in (MANIFEST_FILE, SUMS_FILE, RUN_FILE)):
        return _read_beside(path)
    raise UserInputError(f"{path}: expected the output folder of a build, a report.json, or a bundle in an output")


def _read_beside(bundle: Path) -> tuple[Report, list[str]]:
    """The report of the output that ``bundle`` lies in."""
    target = read_bundle(bundle)["target"]
    report_json = OutputFolder(bundle.resolve().parent).report_json
    if not report_json.is_file():
        raise UserInputError(
            f"{bundle}: a bundle has no figures of its own, and there is no {report_json}; name it where it was built"
        )
    report = read_report_json(report_json)
    if target not in report.targets:
        raise UserInputError(f"{report_json}: tells of {', '.join(report.targets)}, not of {target}; build again")
    _check_told_of(bundle, report, target)
    return report, [target]


def _check_told_of(bundle: Path, report: Report, target: str) -> None:
    """BundleError unless the model that ships has the size that the report says."""
    size, told = (bundle / MODEL_FILE).stat().st_size, report.targets[target].compressed.bytes
    if size != told:
        raise BundleError(
            f"{bundle}: {MODEL_FILE} has {size:,} bytes, its report tells of {told:,}: they are of different builds; "
            "build again"
        )


def _conditions(subject: Subject) -> dict[str, str]:
    """What has to be alike for figures to be compared; of a target that was not measured the precision alone."""
    report = subject.report
    ground = {name: report.environment.get(name) for name in _GROUND if name in report.environment}
    protocol = {name: value for name, value in report.protocol.items() if name not in ("input", _LAYER_TIMES)}
    shapes = ", ".join("x".join(map(str, shape)) for shape in report.protocol.get("input", {}).values())
    named = protocol | ground | ({"input shape": shapes} if shapes else {})
    plain = {name: str(value) if isinstance(value, list) else value for name, value in named.items()}
    return {"precision": report.precision, **dict(flatten(plain))}


def _differences(subjects: tuple[Subject, ...]) -> tuple[Difference, ...]:
    conditions = {subject.label: _conditions(subject) for subject in subjects}
    timed = [subject.label for subject in subjects if subject.report.protocol]
    found = []
    for name in dict.fromkeys(name for values in conditions.values() for name in values):
        labels = [subject.label for subject in subjects] if name == "precision" else timed
        values = {label: conditions[label].get(name, NOT_RECORDED) for label in labels}
        if len(set(values.values())) > 1:
            found.append(Difference(name, values, (*_TIMED, "MACs") if name == "input shape" else _TIMED))
    told = [subject for subject in subjects if _LAYER_TIMES in subject.report.protocol]
    sources = {subject.label: str(subject.report.protocol[_LAYER_TIMES]) for subject in told}
    if len(set(sources.values())) > 1:
        found.append(Difference("layer times", sources, ("layer times",)))
    return tuple(found)


def _layer_rows(subjects: tuple[Subject, ...]) -> tuple[LayerRow, ...]:
    """All sites in the order in which they first come."""
    tables = [{layer.site: layer for layer in subject.report.layers} for subject in subjects]
    sites = dict.fromkeys(site for table in tables for site in table)
    return tuple(LayerRow(site, tuple(table.get(site) for table in tables)) for site in sites)
