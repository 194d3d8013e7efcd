"""What each stage of a build does with one target: the parts that ``pipeline.py`` puts in order."""

import logging
import platform
import shlex
import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import nn

import kronexport
from kronexport.backends.base import Backend, Compiled, Runner
from kronexport.backends.profile import TargetProfile
from kronexport.backends.tensorrt import NO_DEVICE, NO_SCORE
from kronexport.config import BuildConfig
from kronexport.export.factors_file import save_factors
from kronexport.export.onnx_export import export_onnx, save_model
from kronexport.export.operator import attach_functions
from kronexport.export.replace import factorized, site_weights, weight_errors
from kronexport.factorize.calibrate import COLUMN_LIMIT, Calibration, image_limit, is_too_wide
from kronexport.factorize.network import KroneckerNetwork
from kronexport.factorize.scan import ErrorScan
from kronexport.files import write_text_aside
from kronexport.lower.dynamic_batch import with_dynamic_batch
from kronexport.lower.graph_edit import static_shape
from kronexport.lower.lowering import lower
from kronexport.machines.base import Machine
from kronexport.machines.here import HERE
from kronexport.machines.runner import MachineRunner
from kronexport.measure.latency import bench_models
from kronexport.measure.layers import PROFILED, profile_layers, site_times, sites_of_nodes
from kronexport.measure.pair import PairFigures, SideFigures, measure_pair
from kronexport.measure.setting import Setting, Timing
from kronexport.plan.accuracy import BUILDS, next_error, planned_error
from kronexport.plan.goals import judge
from kronexport.plan.plan_file import plan_toml
from kronexport.plan.planner import Planner
from kronexport.precision.quantize import Scheme
from kronexport.records import (
    BatchFigures,
    Check,
    ModelFigures,
    Plan,
    ProgressCallback,
    Structure,
    TargetReport,
    Training,
)
from kronexport.recover.recovery import Recovery, recovered
from kronexport.ship.bundle import write_bundle
from kronexport.ship.golden import Golden
from kronexport.ship.manifest import build_manifest, requirement, session_options
from kronexport.ship.output import OutputFolder
from kronexport.ship.summary import LayerTimes, layer_table, model_figures, planned_times, target_report
from kronexport.survey.project import Project
from kronexport.verify.batches import verify_engine, verify_lowered
from kronexport.verify.half import verify_half
from kronexport.verify.outputs import compare, run_torch
from kronexport.verify.quantized import verify_quantized
from kronexport.verify.score import score_engine
from kronexport.verify.stages import VerifiedModel, uncompiled, verify_compiled, verify_stages

log = logging.getLogger("kronexport")

FAR_FROM_DENSE = 0.5
"""Relative L2 of the factorized outputs above which the user is warned: half of what the network says is lost."""


RANGE_IMAGES = 128
"""Of calibration that the ranges of activations in int8 and FP16 are taken from."""


@dataclass(frozen=True, slots=True)
class FactorizedModel:
    """A model with its factors, and how it was trained, if it was."""

    module: nn.Module
    training: Training | None = None


FactorizedModels = dict[tuple[tuple[tuple[str, Structure | None], ...], float | None], FactorizedModel]
"""By what each site becomes, and the score that training ends at: targets with equal structures share one model."""


@dataclass(frozen=True, slots=True)
class Job:
    """One target's walk down the line: what it works on, where, and for whom. ``work`` is a folder of its own.

    ``machine`` is where the target is measured, None: nowhere.
    ``fixed`` holds the factors that the model came with, ``recovery`` what new ones are trained with. ``planner`` and
    ``factorized`` are shared by all targets: what two plans have in common is computed once.
    """

    project: Project
    fixed: Mapping[str, KroneckerNetwork]
    planner: Planner
    factorized: FactorizedModels
    recovery: Recovery | None
    config: BuildConfig
    profile: TargetProfile
    backend: Backend
    runtime: str
    machine: Machine | None
    threads: int
    output: OutputFolder
    work: Path
    progress: ProgressCallback


@dataclass(frozen=True, slots=True)
class Network:
    """A plan made real: verified, compiled and scored, dense or compressed."""

    plan: Plan
    model: nn.Module
    portable: ir.Model
    verified: VerifiedModel
    compiled: Compiled
    checks: tuple[Check, ...]
    accuracy: float | None
    training: Training | None = None


def scan_stage(project: Project, fixed: Collection[str]) -> ErrorScan:
    """The weight errors of the sites without factors, which every target's plan rests on."""
    free = tuple(site.name for site in project.survey.sites if site.name not in fixed)
    return ErrorScan(site_weights(project.module, free))


def compress_stage(job: Job, plan: Plan, dense: Network, outputs: Sequence[str]) -> Network:
    """The network of ``plan``; where accuracy is all that is asked for, the one of most error that keeps it.

    Raises:
        GoalError: no plan meets the goals.
    """
    network = factorize_stage(job, plan, outputs, dense.accuracy)
    allowed = job.planner.drop_alone(job.profile)
    if allowed is None or dense.accuracy is None or network.accuracy is None:
        return network
    built = [(dense.accuracy - network.accuracy, network)]
    while error := next_error([(planned_error(one.plan), drop) for drop, one in built], allowed):
        job.progress("accuracy", len(built), BUILDS)
        plan = job.planner.plan(job.profile, job.progress, error)
        network = factorize_stage(job, plan, outputs, dense.accuracy)
        if network.accuracy is None or network.plan in [one.plan for _, one in built]:
            break
        built.append((dense.accuracy - network.accuracy, network))
    met = [network for drop, network in built if drop <= allowed]
    if met:
        return max(met, key=lambda network: planned_error(network.plan))
    return min(built, key=lambda pair: pair[0])[1]


def factorize_stage(job: Job, plan: Plan, outputs: Sequence[str], dense_accuracy: float | None) -> Network:
    """The planned factors, fitted to the calibration images where there are some, trained if asked, and made real.

    Those that the model came with stay as they are; where there are no others, nothing is trained.
    """
    job.progress("factorize", 0, 1)
    stop_at = sufficient_score(job, dense_accuracy)
    key = tuple((choice.site, choice.structure) for choice in plan.sites), stop_at
    if key not in job.factorized:
        images, told = calibration(job.project), partial(job.progress, "factorize")
        free = {site: structure for site, structure in plan.structures.items() if site not in job.fixed}
        kept = {site: job.fixed[site] for site in plan.structures if site in job.fixed}
        fitted = FactorizedModel(factorized(job.project.module, free, images, told, kept))
        job.factorized[key] = recover_stage(job, fitted, stop_at) if free else fitted
    model = job.factorized[key]
    job.progress("export", 0, 1)
    exported = export_onnx(model.module, job.project.input, outputs)
    return replace(realize(job, plan, model.module, exported, "compressed"), training=model.training)


def sufficient_score(job: Job, dense_accuracy: float | None) -> float | None:
    """What a network has to score for the goals on accuracy; None where there are none, or nothing to score it by."""
    drops = [goal.number for goal in job.planner.goals_of(job.profile) if goal.name == "accuracy_drop"]
    return dense_accuracy - min(drops) if drops and dense_accuracy is not None else None


def recover_stage(job: Job, fitted: FactorizedModel, stop_at: float | None) -> FactorizedModel:
    """The model trained as ``--recover`` says, until it scores ``stop_at``; without that option as it is.

    Raises:
        UserInputError: as ``distil`` and ``trained_by``.
    """
    if job.recovery is None:
        return fitted
    job.progress("recover", 0, 1)
    project, dense = job.project, job.project.module
    model, training = recovered(
        job.recovery, fitted.module, dense, progress=job.progress, evaluate=project.evaluate, stop_at=stop_at
    )
    batch = project.input.shape[0]
    wanted = run_torch(dense, project.golden, batch)
    before, after = (
        compare("factorized", "dense", run_torch(one, project.golden, batch), wanted, None).rel_l2
        for one in (fitted.module, model)
    )
    return FactorizedModel(model, replace(training, error_before=before, error_after=after))


def realize(job: Job, plan: Plan, model: nn.Module, exported: ir.Model, name: str) -> Network:
    """Lower, verify, compile and score one network; each stage is checked against the one before."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=job.work))
    job.progress(f"lower {name}", 0, 1)
    lowered = lowered_network(job, plan, model, exported)
    portable = exported.clone()
    attach_functions(portable)
    save_model(portable, folder / "portable.onnx")
    save_model(lowered, folder / "lowered.onnx")
    job.progress(f"verify {name}", 0, 1)
    verified = verify_stages(
        job.project.module,
        model,
        folder / "portable.onnx",
        folder / "lowered.onnx",
        job.project.golden,
        batch=job.project.input.shape[0],
        tolerance=job.profile.tolerances["fp32"],
    )
    tolerance = job.profile.tolerances[job.config.precision]
    if job.config.batches is not None:
        verify_lowered(
            job.config.batches,
            model,
            folder / "lowered.onnx",
            job.project.golden,
            job.profile.tolerances["fp32"],
        )
    verified = in_precision(job, plan, verified, name)
    job.progress(f"compile {name}", 0, 1)
    compiled = job.backend.compile(
        verified.path, folder / "compiled", job.profile, allow_fallback=job.config.allow_fallback
    )
    if compiled.artifact is None:
        return Network(plan, model, portable, verified, compiled, (*verified.checks, uncompiled(verified)), None)
    with opened(job, compiled.artifact, compiled) as runner:
        check = verify_compiled(runner, job.project.input, job.project.golden, verified, tolerance)
        if job.config.batches is not None:
            verify_engine(
                job.config.batches,
                runner,
                spec=job.project.input,
                images=job.project.golden,
                outputs=verified.outputs,
                tolerance=tolerance,
            )
        evaluate = job.project.evaluate if why_unscored(job) is None else None
        score = score_engine(runner, job.project.input, evaluate) if evaluate else None
    return Network(plan, model, portable, verified, compiled, (*verified.checks, check), score)


def lowered_network(job: Job, plan: Plan, model: nn.Module, exported: ir.Model) -> ir.Model:
    """The exported network in standard operators at the target's opset; for any batch where that was asked for.

    Raises:
        UserInputError: it cannot be lowered, or not for any batch; the node is named.
    """
    lowered = lower(exported, plan.forms, job.profile.opset)
    if job.config.batches is None:
        return lowered
    spec, outputs = job.project.input, [str(value.name) for value in exported.graph.outputs]
    other = export_onnx(model, replace(spec, shape=(spec.shape[0] + 1, *spec.shape[1:])), outputs)
    return with_dynamic_batch(lowered, lower(other, plan.forms, job.profile.opset))


def in_precision(job: Job, plan: Plan, verified: VerifiedModel, name: str) -> VerifiedModel:
    """The model in the precision that was asked for; raises as ``verify_half`` and ``verify_quantized``."""
    if job.config.precision == "fp32":
        return verified
    project, tolerance = job.project, job.profile.tolerances[job.config.precision]
    job.progress(f"{job.config.precision} {name}", 0, 1)
    if job.config.precision == "fp16":
        return verify_half(verified, project.golden, range_feeds(project), tolerance=tolerance)
    return verify_quantized(
        verified,
        project.golden,
        range_feeds(project),
        Scheme(symmetric=job.profile.backend == "tensorrt", ranges=job.config.int8_ranges),
        sites=[site.name for site in project.survey.sites],
        float_steps=plan.float_steps,
        tolerance=tolerance,
    )


def opened(job: Job, artifact: Path, compiled: Compiled) -> AbstractContextManager[Runner]:
    """The engine on the board where there is one; else here, also for a device that is not there."""
    if job.machine is None or job.machine is HERE:
        return job.backend.runner(compiled, job.threads)
    return nullcontext(MachineRunner(job.machine, job.profile.backend, artifact, job.threads))


def measure_stage(job: Job, dense: Network, compressed: Network) -> PairFigures | None:
    """Time and memory against dense; None where the device is not there, or the engine cannot be made here."""
    if job.machine is None or dense.compiled.artifact is None or compressed.compiled.artifact is None:
        return None
    job.progress("measure", 0, 1)
    options = job.config.measure
    return measure_pair(
        dense.compiled.artifact,
        compressed.compiled.artifact,
        Setting(job.profile.backend, job.threads, job.project.input, machine=job.machine),
        Timing(options.seconds, options.rounds, options.warmup_seconds),
    )


def batch_figures(
    job: Job, dense: Network, compressed: Network, measured: PairFigures | None
) -> tuple[BatchFigures, ...]:
    """Latency at each size of a dynamic batch; none where the batch is static."""
    batches, spec, options = job.config.batches, job.project.input, job.config.measure
    if batches is None:
        return ()
    artifacts = dense.compiled.artifact, compressed.compiled.artifact
    if measured is None or job.machine is None or artifacts[0] is None or artifacts[1] is None:
        return tuple(BatchFigures(size, None, None, None) for size in batches.sizes)
    figures = []
    for size in batches.sizes:
        job.progress(f"measure a batch of {size}", 0, 1)
        found = bench_models(
            {"dense": artifacts[0], "compressed": artifacts[1]},
            Setting(
                job.profile.backend,
                job.threads,
                replace(spec, shape=(size, *spec.shape[1:])),
                machine=job.machine,
            ),
            Timing(options.seconds, options.rounds, options.warmup_seconds),
        )
        medians = found.latency_ms["dense"].p50, found.latency_ms["compressed"].p50
        figures.append(BatchFigures(size, *medians, found.speedups["compressed"].median))
    return tuple(figures)


def layer_times(job: Job, dense: Network, compressed: Network) -> LayerTimes:
    """Times of the layers of both networks: of the engines, where the runtime tells which node a layer is of."""
    artifacts = dense.compiled.artifact, compressed.compiled.artifact
    if job.machine is None or job.profile.backend not in PROFILED or artifacts[0] is None or artifacts[1] is None:
        return planned_times(compressed.plan, NO_DEVICE if job.machine is None else None)
    job.progress("profile", 0, 1)
    setting = Setting(job.profile.backend, job.threads, job.project.input, machine=job.machine)
    names = [site.name for site in job.project.survey.sites]
    before, after = (
        site_times(profile_layers(artifact, setting), sites_of_nodes(network.verified.path, names))
        for network, artifact in ((dense, artifacts[0]), (compressed, artifacts[1]))
    )
    reason = "the engine runs it in one layer with another's nodes, or does not name it"
    return LayerTimes(before, after, reason, "the engine's layers, in a profiling run of its own")


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
        return (f"the engine was verified and measured on {there}",)
    here = f"{job.profile.backend} {job.runtime} on {platform.machine()}"
    return (f"the engine was verified in {here}, not on the device; run there: python run.py check",)


def why_unscored(job: Job) -> str | None:
    """Why the engine itself is not scored; None if it is, wherever there is an evaluator."""
    if job.machine is None:
        return NO_DEVICE
    return NO_SCORE if job.profile.backend == "tensorrt" else None


def precision_notes(job: Job, network: Network) -> tuple[str, ...]:
    """What int8 or fp16 gains over the same network in float, timed side by side: perhaps nothing on this machine."""
    compiled = network.compiled.artifact
    if job.machine is None or network.verified.in_float is None or compiled is None:
        return ()
    if job.profile.backend == "tensorrt":  # in float it has no engine
        return ()
    options = job.config.measure
    precision = job.config.precision
    speedup = bench_models(
        {"fp32": network.verified.in_float, precision: compiled},
        Setting(job.profile.backend, job.threads, job.project.input, machine=job.machine),
        Timing(options.seconds, options.rounds, options.warmup_seconds),
    ).speedups[precision]
    low, high = speedup.ci95
    gain = f"{speedup.median:.2f}x, 95 % {low:.2f} to {high:.2f}: {speedup.verdict}"
    if speedup.verdict == "slower":
        log.warning("%s: %s is slower here than the same network in float: %s", job.profile.name, precision, gain)
    return (f"{precision} over the same network in float: {gain}",)


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


def ship_stage(job: Job, dense: Network, network: Network, protocol: Mapping[str, Any]) -> None:
    """The intermediates, then the bundle: whole, or as it was. ``protocol`` is that of its figures."""
    name, output = job.profile.name, job.output
    save_model(network.portable, output.portable_onnx(name))
    save_model(ir.load(dense.verified.path), output.target_dense_onnx(name))
    save_factors(network.model, output.factors(name))
    write_text_aside(output.plan(name), plan_toml(network.plan))
    compiled = network.compiled
    manifest = build_manifest(
        network.verified.path,
        model=job.config.model,
        target=name,
        artifact=compiled.artifact.name if compiled.artifact else None,
        precision=job.config.precision,
        threads=job.threads,
        runtime_options=session_options(job.profile.backend),
        requires=requirement(
            job.profile.backend,
            job.runtime,
            job.profile.machine,
            gpu=job.profile.compatible if job.profile.board else None,
            sm=job.profile.board.sm if job.profile.board else None,
        ),
        tolerance=job.profile.tolerances[job.config.precision],
        kronexport_version=kronexport.__version__,
        rebuild=rebuild_command(job),
        protocol=protocol,
        dynamic_batch=job.config.batches,
        allow_fallback=job.config.allow_fallback,
    )
    write_bundle(
        output.bundle(name),
        model_onnx=network.verified.path,
        compiled_files=compiled.files,
        golden=Golden({job.project.input.name: job.project.golden}, network.verified.outputs),
        manifest=manifest,
    )


def misses_latency(job: Job, dense: Network, compressed: Network, measured: PairFigures) -> bool:
    """Whether a goal on latency is not met."""
    before, after = figures(dense, measured.dense), figures(compressed, measured.compressed)
    latency = (goal for goal in job.planner.goals_of(job.profile) if goal.name == "latency")
    return any(judge(goal, before, after, measured.speedup).met is False for goal in latency)


def figures(network: Network, measured: SideFigures | None) -> ModelFigures:
    """The report's figures of one network."""
    batch, *_ = static_shape(network.portable.graph.inputs[0]) or (1,)
    return model_figures(network.model, network.verified.path, batch, measured, network.accuracy)


LOWERING_NOTES = {
    "roofline": "lowerings are chosen by the target's roofline",
    "measured": "lowerings are chosen by measurement",
    "mixed": "lowerings are chosen by measurement, and by the cost model where nothing was measured",
    "given": "structures and lowerings are those of the plan that was given",
}
"""By ``Plan.basis``."""


def fitting_notes(job: Job, network: Network) -> tuple[str, ...]:
    """How the factors and the lowerings were found, for the reader of the report."""
    images = calibration(job.project)
    notes = () if images else ("no calibration images: golden data are seeded normal values",)
    if not network.plan.forms:
        return ("the plan leaves every convolution dense", *notes)
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
    labels = "with labels" if training.labels else "without labels"
    data = f"{training.epochs} epochs on {training.images} images {labels}"
    return (f"the network was then taught by the dense one, {data}: {gain}",)


def range_feeds(project: Project) -> list[dict[str, NDArray[np.float32]]]:
    """What ranges are taken from: calibration images in batches of the input's size, else golden data."""
    images = project.golden if project.calibration is None else project.calibration[:RANGE_IMAGES]
    batch = project.input.shape[0]
    starts = range(0, len(images) - batch + 1, batch)
    return [{project.input.name: images[start : start + batch]} for start in starts]


def calibration(project: Project) -> Calibration | None:
    """The images that factors are fitted to, in batches of the input's size."""
    if project.calibration is None:
        return None
    return Calibration(project.calibration, project.input.shape[0], image_limit(project.survey.sites))


def rebuild_command(job: Job) -> str:
    """The command that makes this bundle again; files go by their names alone, since folders differ.

    A board has no name in it, nor has its Python: addresses and paths do not ship.
    """
    config = job.config
    there = config.device is not None and not job.profile.measured_here
    usual_python = BuildConfig.model_fields["device_python"].default
    given = {
        "weights": config.weights.name if config.weights else "",
        "input": config.input or "",
        "calibration": _without_folder(config.calibration or ""),
        "mean": ",".join(map(str, config.mean or ())),
        "std": ",".join(map(str, config.std or ())),
        "evaluate": _without_folder(config.evaluate or ""),
        "recover": _without_folder(config.recover or ""),
        "epochs": str(config.epochs or ""),
        "plan": config.plan.name if config.plan and job.planner.is_given(job.profile) else "",
        "precision": config.precision,
        "int8-ranges": config.int8_ranges if config.precision == "int8" else "",
        "dynamic-batch": config.dynamic_batch or "",
        "threads": str(job.threads),
        "time-budget": config.time_budget or "",
        "device": "ssh://BOARD" if there else "",
        "device-python": "PYTHON" if there and config.device_python != usual_python else "",
    }
    measure = config.measure.model_dump(exclude_defaults=True, exclude={"threads"})
    several = {
        "goal": config.goal,
        "include": config.include,
        "exclude": config.exclude,
        "set": [f"measure.{key}={value}" for key, value in measure.items()],
    }
    words = ["kronexport", "build", _without_folder(config.model), "--target", job.profile.name]
    words += [word for flag, value in given.items() if value for word in (f"--{flag}", value)]
    words += [word for flag, values in several.items() for value in values for word in (f"--{flag}", value)]
    words += ["--allow-fallback"] if config.allow_fallback else []
    return shlex.join(words)


def _without_folder(source: str) -> str:
    """``net.py:make`` of ``/some/where/net.py:make``; samples and dotted modules have no folder."""
    return source if source.startswith("sample:") else Path(source).name
