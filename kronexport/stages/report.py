"""The target's part of the report: figures, each null with its reason, and notes."""

import logging
import platform
from collections.abc import Sequence

from kronexport.backends.tensorrt import NO_DEVICE
from kronexport.export.replace import weight_errors
from kronexport.factorize.calibrate import COLUMN_LIMIT, is_too_wide
from kronexport.machines.here import HERE
from kronexport.measure.pair import PairFigures
from kronexport.plan.goals import judge
from kronexport.records import BatchFigures, TargetReport, Training
from kronexport.ship.summary import LayerTimes, layer_table, target_report
from kronexport.stages.compress import calibration
from kronexport.stages.job import Job, Network
from kronexport.stages.measure import figures
from kronexport.stages.realize import why_unscored

log = logging.getLogger("kronexport")


FAR_FROM_DENSE = 0.5
"""Relative L2 of the factorized outputs above which the user is warned: half of what the network says is lost."""


BUSY = 1.25
"""Load average over cores when timing begins, above which other programs ran too: a build keeps all cores at most."""

LOWERING_NOTES = {
    "roofline": "lowerings are chosen by the target's roofline",
    "measured": "lowerings are chosen by measurement",
    "mixed": "lowerings are chosen by measurement, and by the cost model where nothing was measured",
    "given": "structures and lowerings are those of the plan that was given",
}
"""By ``Plan.basis``."""


def report_stage(
    job: Job,
    dense: Network,
    compressed: Network,
    measured: PairFigures | None,
    *,
    times: LayerTimes,
    sizes: tuple[BatchFigures, ...],
    notes: tuple[str, ...],
) -> TargetReport:
    """All figures of the target, each null with its reason; ``sizes`` are those of a dynamic batch."""
    project = job.project
    slow, fast, speedup = (measured.dense, measured.compressed, measured.speedup) if measured else (None, None, None)
    before, after = figures(dense, slow), figures(compressed, fast)
    if speedup and speedup.verdict == "slower":
        log.warning("%s: the compressed network is slower than dense", job.profile.name)
    moved = compressed.verified.checks[0].rel_l2 or 0.0
    if moved > FAR_FROM_DENSE:
        far = f"the outputs are far from dense's (relative L2 {moved:.2f}): loosen the goals, or train the factors"
        log.warning("%s: %s", job.profile.name, far)
        notes = (*notes, far)
    return target_report(
        precision=job.config.precision,
        skipped=project.survey.skipped,
        dense=before,
        compressed=after,
        measured=measured,
        no_device=NO_DEVICE if job.machine is None else None,
        uncompiled=compressed.compiled.reason,
        unevaluated=project.unevaluated or why_unscored(job) or "",
        goals=[judge(goal, before, after, speedup) for goal in job.planner.goals_of(job.profile)],
        checks=compressed.checks,
        layers=layer_table(project.survey, compressed.plan, weight_errors(project.module, compressed.model), times),
        pareto=compressed.plan.pareto,
        notes=(
            *notes,
            *load_notes(measured),
            *device_notes(job, compressed),
            *batch_notes(sizes),
            *compressed.verified.notes,
            *compressed.compiled.notes,
            *fitting_notes(job, compressed),
        ),
        dynamic_batch=sizes,
        recover=compressed.training,
        times=times,
    )


def load_notes(measured: PairFigures | None) -> tuple[str, ...]:
    """That the machine was busy, where it says so itself."""
    environment = measured.environment if measured else {}
    load, cores = environment.get("before", {}).get("load_average"), environment.get("logical_cores")
    if not load or not cores or load[0] <= BUSY * cores:
        return ()
    busy = f"the machine was busy when timing began (load {load[0]:.1f} on {cores} cores)"
    return (f"{busy}: the ratio of networks timed in turns holds better than their milliseconds; time again when idle",)


def batch_notes(sizes: Sequence[BatchFigures]) -> tuple[str, ...]:
    """The latency at each size of a dynamic batch, where it was measured."""
    return tuple(
        f"{size.batch} samples at once: {size.dense_latency_ms:.3g} ms dense, {size.compressed_latency_ms:.3g} ms "
        f"compressed, {size.speedup:.2f}x"
        for size in sizes
        if size.speedup is not None
    )


def device_notes(job: Job, network: Network) -> tuple[str, ...]:
    """Where the engine of another device was verified, and on which device its figures were measured."""
    if job.machine is HERE or network.compiled.artifact is None:
        return ()
    if job.machine is not None:
        found = job.machine.environment(job.profile.backend)
        device = found["board"] or found["cpu_model"] or found["machine"]
        place = "this machine" if job.machine.place == HERE.place else job.machine.place
        there = f"{place} ({device}, {job.profile.backend} {found['runtime_version']})"
        said = [note for note in job.machine.notes if note not in network.plan.notes]
        return (f"the engine was verified and measured on {there}", *said)
    here = f"{job.profile.backend} {job.runtime} on {platform.machine()}"
    return (f"the engine was verified in {here}, not on the device; run there: python run.py check",)


def fitting_notes(job: Job, network: Network) -> tuple[str, ...]:
    """How the factors and the lowerings were found, for the reader of the report."""
    images = calibration(job.project)
    notes = () if images else ("no calibration images: golden data are seeded normal values",)
    if not network.plan.forms:
        return ("the plan leaves every convolution dense", *network.plan.notes, *notes)
    fitted = f"{images.used} calibration images" if images else "the weights alone"
    notes = LOWERING_NOTES[network.plan.basis], *network.plan.notes, *notes
    structures = [structure for site, structure in network.plan.structures.items() if site not in job.fixed]
    wide = sum(map(is_too_wide, structures)) if images else 0
    if wide:
        notes = (f"{wide} layers of more than {COLUMN_LIMIT} columns keep the factors of their weight", *notes)
    if structures:
        notes = (f"factors are fitted to {fitted}", *training_notes(network.training), *notes)
    kept = len(network.plan.structures) - len(structures)
    return (f"{kept} layers keep the factors that the model came with", *notes) if kept else notes


def training_notes(training: Training | None) -> tuple[str, ...]:
    """How the network was trained and what that changed; nothing where it was not."""
    if training is None:
        return ()
    gain = f"relative L2 of its outputs to dense {training.error_before:.3f} before, {training.error_after:.3f} after"
    if training.kind == "own loop":
        return (f"the network was then trained by a loop of the user's: {gain}",)
    if training.epochs == 0:
        return ("the network was not trained: its fitted factors meet the goal on accuracy",)
    labels = "with labels" if training.labels else "without labels"
    epochs = "1 epoch" if training.epochs == 1 else f"{training.epochs} epochs"
    data = f"{epochs} on {training.images} images {labels}"
    if training.kept_epoch == 0:
        return (f"the network was taught by the dense one, {data}, and scored no more for it: its fitted factors ship",)
    return (f"the network was then taught by the dense one, {data}: {gain}",)
