"""The figures of one target gathered into its part of report.json; every null gets its reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import onnx_ir as ir
from torch import nn

from kronexport.lower.dynamic_batch import at_batch
from kronexport.lower.macs import count_macs
from kronexport.lower.memory import graph_memory
from kronexport.measure.pair import PairFigures, SideFigures
from kronexport.plan.goals import figure_of
from kronexport.records import (
    BatchFigures,
    Check,
    GoalResult,
    LayerFigures,
    ModelFigures,
    ParetoPoint,
    Plan,
    Skipped,
    Survey,
    TargetReport,
    Training,
)

NOT_TIMED = "the layer was not timed for the plan, dense and in the form that it has now"

UNTIMED = "the candidates were not timed; their seconds are estimates of the target's roofline"


def model_figures(
    model: nn.Module, shipped: Path, batch: int, measured: SideFigures | None, accuracy: float | None
) -> ModelFigures:
    """``params`` of the module, each parameter once; what is counted from a graph is of the ONNX file that ships.

    ``batch`` is what it is counted at where the file takes any.
    """
    graph = at_batch(ir.load(shipped), batch)
    memory = graph_memory(graph)
    return ModelFigures(
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=count_macs(graph),
        bytes=shipped.stat().st_size,
        latency_ms=measured.latency_ms if measured else None,
        peak_memory_bytes=measured.peak_memory_bytes if measured else None,
        build_peak_memory_bytes=measured.build_peak_memory_bytes if measured else None,
        accuracy=accuracy,
        weight_bytes=memory.weights,
        activation_bytes=memory.activations,
    )


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Microseconds of sites by name, of the dense network and of the compressed one.

    ``reason`` says why some lack, ``source`` what they are the times of.
    """

    dense: Mapping[str, float] = field(default_factory=dict)
    compressed: Mapping[str, float] = field(default_factory=dict)
    reason: str = NOT_TIMED
    source: str = "each layer alone, timed for the plan"


NO_LAYER_TIMES: Final = LayerTimes()


def planned_times(plan: Plan, no_device: str | None = None) -> LayerTimes:
    """Those that the plan rests on; ``no_device`` says why nothing was timed."""
    return LayerTimes(
        {choice.site: 1e6 * choice.dense_seconds for choice in plan.sites if choice.dense_seconds is not None},
        {choice.site: 1e6 * choice.seconds for choice in plan.sites if choice.seconds is not None},
        no_device or NOT_TIMED,
    )


def layer_table(
    survey: Survey, plan: Plan, errors: dict[str, float], times: LayerTimes = NO_LAYER_TIMES
) -> tuple[LayerFigures, ...]:
    """One row a site, in execution order; ``errors`` holds the exact weight error of each factorized one."""
    rows = []
    for site, choice in zip(survey.sites, plan.sites, strict=True):
        structure = choice.structure
        rows.append(
            LayerFigures(
                site=site.name,
                method="dense" if structure is None else structure.method,
                structure="x".join(map(str, site.weight_shape)) if structure is None else str(structure),
                ranks=() if structure is None else structure.ranks,
                lowering=choice.lowering,
                params=choice.params,
                macs=choice.macs,
                rel_error=errors.get(site.name, 0.0),
                dense_us=times.dense.get(site.name),
                us=times.compressed.get(site.name),
                float_steps=choice.float_steps,
                dense_params=site.params,
                dense_macs=site.macs,
                reason=choice.reason,
            )
        )
    return tuple(rows)


def target_report(
    *,
    precision: str,
    skipped: Sequence[Skipped],
    dense: ModelFigures,
    compressed: ModelFigures,
    measured: PairFigures | None,
    no_device: str | None,
    uncompiled: str | None,
    unevaluated: str,
    goals: Sequence[GoalResult],
    checks: Sequence[Check],
    layers: tuple[LayerFigures, ...],
    pareto: tuple[ParetoPoint, ...],
    notes: Sequence[str],
    dynamic_batch: Sequence[BatchFigures] = (),
    recover: Training | None = None,
    times: LayerTimes = NO_LAYER_TIMES,
) -> TargetReport:
    """The target's report.

    ``no_device`` says why nothing is measured here, ``uncompiled`` why there is no engine to verify here,
    ``unevaluated`` why there is no score, ``times`` why layers have none: with what ``measured`` says, every null gets
    its reason.
    """
    unmeasured = {
        f"layers.{key}": times.reason for key in ("dense_us", "us") if any(getattr(row, key) is None for row in layers)
    }
    unmeasured |= _absent(no_device, uncompiled, unevaluated)
    unmeasured |= measured.unmeasured if measured else {}
    if any(point.latency is None for point in pareto):
        unmeasured["pareto.latency"] = UNTIMED
    if any(figures.speedup is None for figures in dynamic_batch):
        unmeasured["dynamic_batch"] = unmeasured["speedup"]
    unmeasured |= {f"goals.{goal.expr}": _why_unjudged(goal, unmeasured) for goal in goals if goal.met is None}
    return TargetReport(
        precision=precision,
        environment=measured.environment if measured else {},
        protocol=(measured.protocol if measured else {}) | ({"layer_times": times.source} if times.compressed else {}),
        skipped=tuple(skipped),
        pareto=pareto,
        unmeasured=unmeasured,
        goals=tuple(goals),
        dense=dense,
        compressed=compressed,
        speedup=measured.speedup if measured else None,
        verification=tuple(checks),
        layers=layers,
        notes=tuple(notes),
        dynamic_batch=tuple(dynamic_batch),
        recover=recover,
    )


def _why_unjudged(goal: GoalResult, unmeasured: Mapping[str, str]) -> str:
    """The reason of the figure that lacks, which is dense's where the compressed network has it."""
    compressed, dense = (f"{side}.{figure_of(goal)}" for side in ("compressed", "dense"))
    return unmeasured[compressed] if compressed in unmeasured else unmeasured[dense]


def _absent(no_device: str | None, uncompiled: str | None, unevaluated: str) -> dict[str, str]:
    reasons = {} if uncompiled is None else {"verification.compiled": uncompiled}
    if no_device:
        figures = ("latency_ms", "peak_memory_bytes", "build_peak_memory_bytes")
        reasons |= {f"{side}.{figure}": no_device for side in ("dense", "compressed") for figure in figures}
        reasons["speedup"] = no_device
    if no_device or unevaluated:
        reasons |= {f"{side}.accuracy": no_device or unevaluated for side in ("dense", "compressed")}
    return reasons
