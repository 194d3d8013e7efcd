"""report.json, schema 1: written from ``records.Report``, read back with every key checked.

A figure that was not measured is null, and ``TargetReport.unmeasured`` says why under its dotted key:
``compressed.latency_ms``, ``speedup``, ``pareto.latency``, ``goals.EXPR``, ``verification.STAGE``, ``layers.SITE.us``.
The key without the last name of a row (``goals``, ``verification``, ``layers.us``) speaks for all rows.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from pydantic import TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from kronexport.errors import KronexportError, UserInputError
from kronexport.files import json_text, write_text_aside
from kronexport.records import Check, Report, TargetReport
from kronexport.ship.report_view import null_reason

_MOST_NAMED = 5
_OPTIONAL_FIGURES = ("latency_ms", "peak_memory_bytes", "build_peak_memory_bytes", "accuracy")
_SCHEMA = 1


class _EveryKeyRequired(GenerateJsonSchema):
    """A default is for the one who builds the record; what is written always has every key."""

    def field_is_required(self, *_: object, **__: object) -> bool:
        return True


def report_to_json(report: Report) -> dict[str, Any]:
    """The object of report.json; ``schema`` comes first, so that a reader sees it before the rest."""
    return {
        "schema": report.schema,
        "model": report.model,
        "targets": {name: asdict(target) for name, target in report.targets.items()},
    }


def report_json_text(report: Report) -> str:
    """The text of report.json, as ``write_report_json`` writes it and ``--json`` prints it.

    Raises:
        KronexportError: A number is NaN or infinite, or a null has no reason: a bug in the stage that left it.
    """
    if missing := missing_reasons(report):
        raise KronexportError(
            f"report.json: null without a reason: {_some(missing)}; "
            "expected an entry of that name in the target's 'unmeasured'"
        )
    return json_text(report_to_json(report), "report.json")


def write_report_json(report: Report, path: Path) -> None:
    """Writes report.json, all or nothing.

    Raises:
        KronexportError: As ``report_json_text``, or the disk is full.
    """
    write_text_aside(path, report_json_text(report))


def read_report_json(path: Path) -> Report:
    """Reads what ``write_report_json`` wrote; keys that this version does not know are left out.

    Args:
        path: A report.json of schema 1.

    Raises:
        UserInputError: No such file, not JSON, another schema, or a key that is missing or of the wrong type.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = json.loads(text, parse_constant=_refuse_constant)
    except (OSError, ValueError) as error:
        raise UserInputError(f"{path}: cannot be read as JSON: {error}; expected the report.json of a build") from error
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if schema != _SCHEMA:
        raise UserInputError(f"{path}: schema {schema!r}, expected {_SCHEMA}; use the kronexport that wrote it")
    try:
        report = TypeAdapter(Report).validate_json(text, strict=True)
    except ValidationError as error:
        raise UserInputError(f"{path}: {_explain(error)}; build again, or restore the file") from error
    if missing := missing_reasons(report):
        raise UserInputError(f"{path}: null or missing without a reason in 'unmeasured': {_some(missing)}; build again")
    return report


def report_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of the report.json that this version writes: every key is required."""
    schema = TypeAdapter(Report).json_schema(mode="serialization", schema_generator=_EveryKeyRequired)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "kronexport report.json"}


def missing_reasons(report: Report) -> list[str]:
    """``TARGET: KEY`` of every null figure for which ``unmeasured`` has no reason; empty if the report is complete."""
    return [
        f"{name}: {key}"
        for name, target in report.targets.items()
        for key, general in _null_keys(target)
        if null_reason(target, key, general) is None
    ]


def _null_keys(target: TargetReport) -> Iterator[tuple[str, str]]:
    """Of every null figure its own key, and the key that speaks for all rows of its table."""
    for side, figures in (("dense", target.dense), ("compressed", target.compressed)):
        yield from ((key, key) for key in _null_fields(figures, f"{side}.", _OPTIONAL_FIGURES))
    yield from ((key, key) for key in _null_fields(target, "", ("speedup",)))
    yield from ((f"goals.{goal.expr}", "goals") for goal in target.goals if goal.value is None or goal.met is None)
    yield from (
        (f"verification.{check.stage}", "verification") for check in target.verification if _is_undecided(check)
    )
    if any(point.latency is None for point in target.pareto):
        yield "pareto.latency", "pareto.latency"
    for batch in target.dynamic_batch:
        if None in (batch.dense_latency_ms, batch.compressed_latency_ms, batch.speedup):
            yield f"dynamic_batch.{batch.batch}", "dynamic_batch"
    for layer in target.layers:
        for key in _null_fields(layer, "", ("dense_us", "us")):
            yield f"layers.{layer.site}.{key}", f"layers.{key}"


def _null_fields(row: object, prefix: str, names: tuple[str, ...]) -> list[str]:
    return [f"{prefix}{name}" for name in names if getattr(row, name) is None]


def _is_undecided(check: Check) -> bool:
    """Whether a check lacks what it should say; an approximation has neither tolerance nor verdict by definition."""
    if check.max_abs is None or check.rel_l2 is None:
        return True
    return check.stage != "factorized" and (check.tolerance is None or check.passed is None)


def _explain(error: ValidationError) -> str:
    """Each problem by its dotted key: what came, what was expected."""
    problems = [
        f"{'.'.join(map(str, problem['loc'])) or 'the whole file'}: {problem['msg']}, got {problem['input']!r:.60}"
        for problem in error.errors(include_url=False)
    ]
    return _some(problems, "; ")


def _some(texts: list[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(texts) - _MOST_NAMED} more" if len(texts) > _MOST_NAMED else ""
    return separator.join(texts[:_MOST_NAMED]) + more


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
