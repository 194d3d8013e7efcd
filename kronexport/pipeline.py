"""The line that a build runs along; the order of execution lives only here.

    survey -> plan -> factorize -> export -> lower -> compile -> verify -> measure -> ship

``run`` surveys the model once and then walks each target down the rest of the line: ``build_target``.
"""

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from torch import nn

import kronexport
from kronexport.backends import BACKENDS, require_runtime
from kronexport.backends.base import Backend, Compiled
from kronexport.backends.profile import TargetProfile, load_target
from kronexport.config import BuildConfig, config_toml, load_config
from kronexport.errors import (
    BundleError,
    GoalError,
    KronexportError,
    MissingRuntimeError,
    UserInputError,
    VerificationError,
)
from kronexport.export.onnx_export import export_onnx, save_model
from kronexport.export.operator import attach_functions
from kronexport.export.replace import factorized, save_factors, site_weights, weight_errors
from kronexport.factorize.scan import ErrorScan
from kronexport.files import write_text_aside
from kronexport.lower.lowering import lower
from kronexport.measure.pair import PairFigures, measure_pair
from kronexport.measure.setting import Setting, Timing
from kronexport.plan.choose import dense_plan, make_plan
from kronexport.plan.goals import DEFAULT_GOALS, Goal, judge, missed_goals, parse_goal
from kronexport.plan.plan_file import plan_toml
from kronexport.records import Check, Plan, ProgressCallback, Report, TargetReport
from kronexport.ship.bundle import write_bundle
from kronexport.ship.golden import Golden
from kronexport.ship.manifest import build_manifest, requirement
from kronexport.ship.output import OutputFolder, prepare_output
from kronexport.ship.report_html import write_report_html
from kronexport.ship.report_json import write_report_json
from kronexport.ship.summary import layer_table, model_figures, target_report
from kronexport.survey.project import Project, load_project
from kronexport.verify.score import score_engine
from kronexport.verify.stages import VerifiedModel, uncompiled, verify_compiled, verify_stages

log = logging.getLogger("kronexport")

_FAILURE_ORDER = (KronexportError, VerificationError, BundleError, GoalError)
"""Exit codes 1, 4, 6, 5: with several targets the first that applies."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The report of every target that was shipped, and for the command the error to end with, if any."""

    report: Report
    output: OutputFolder
    failure: KronexportError | None


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a build would do: the model as surveyed, and one plan a target."""

    project: Project
    plans: tuple[Plan, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """One target's walk down the line: what it works on, where, and for whom. ``work`` is a folder of its own."""

    project: Project
    scan: ErrorScan
    config: BuildConfig
    goals: tuple[Goal, ...]
    profile: TargetProfile
    backend: Backend
    runtime: str
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


def build(model: str, **options: Any) -> Report:
    """Build ``model`` and return the report; what ``kronexport build`` does, as a function.

    Args:
        model: ``sample:NAME``, ``pkg.mod:factory`` or ``path/file.py:factory``.
        options: the fields of ``kronexport.config.BuildConfig``: ``target=("cpu",)``, ``goal=...``

    Raises:
        KronexportError: the subclass that says what is wrong; a missed goal too, after everything was shipped.
    """
    outcome = run(load_config(None, {"model": model, **options}, []))
    if outcome.failure is not None:
        raise outcome.failure
    return outcome.report


def run(config: BuildConfig, progress: ProgressCallback = lambda _stage, _done, _total: None) -> Outcome:
    """Build every target of ``config``; what is shipped is complete, whatever happens to the other targets.

    Raises:
        UserInputError: something in the configuration, the model or the data is wrong; nothing was written.
        MissingRuntimeError: a runtime is not installed; nothing was written.
        KronexportError: no target could be built: the first of exit codes 1, 4, 6, 5 that applies.
    """
    profiles, runtimes, goals = check_request(config)
    project = survey_stage(config)
    scan = scan_stage(project)
    output = prepare_output(config.out)
    write_text_aside(output.config, config_toml(config))
    dense = export_onnx(project.module, project.input)
    save_model(dense, output.dense_onnx)
    reports: dict[str, TargetReport] = {}
    failures: list[KronexportError] = []
    for profile in profiles:
        try:
            with output.work_folder(profile.name) as work:
                job = Job(
                    project=project,
                    scan=scan,
                    config=config,
                    goals=goals,
                    profile=profile,
                    backend=BACKENDS[profile.backend],
                    runtime=runtimes[profile.name],
                    threads=config.measure.threads or config.threads or profile.threads,
                    output=output,
                    work=work,
                    progress=progress,
                )
                reports[profile.name] = build_target(job, dense)
        except (UserInputError, MissingRuntimeError):
            raise
        except KronexportError as error:
            failures.append(type(error)(f"{profile.name}: {error}"))
    if not reports:
        raise first_failure(failures)
    report = Report(config.model, reports)
    write_report_json(report, output.report_json)
    write_report_html(report, output.report_html)
    failures += missed_goals(report, allow_unmeasured=config.allow_unmeasured)
    return Outcome(report, output, first_failure(failures) if failures else None)


def dry_run(config: BuildConfig, progress: ProgressCallback = lambda _stage, _done, _total: None) -> DryRun:
    """Survey the model and plan every target; writes nothing. Raises as ``run`` does."""
    profiles, _, goals = check_request(config)
    project = survey_stage(config)
    scan = scan_stage(project)
    plans = tuple(make_plan(project.survey, scan, goals, profile, progress) for profile in profiles)
    return DryRun(project, plans)


def build_target(job: Job, dense_export: ir.Model) -> TargetReport:
    """One target, from plan to bundle; raises as ``run`` does, and then ships nothing for it."""
    survey, module = job.project.survey, job.project.module
    plan = make_plan(survey, job.scan, job.goals, job.profile, job.progress)
    dense = realize(job, dense_plan(survey, job.profile), module, dense_export, "dense")
    compressed = factorize_stage(job, plan)
    measured = measure_stage(job, dense, compressed)
    wants_speed = any(goal.name == "latency" for goal in job.goals)
    if measured and wants_speed and measured.speedup.verdict == "slower":
        log.warning("%s: slower than dense with a latency goal: the dense network is shipped", job.profile.name)
        compressed = dense
        measured = measure_stage(job, dense, compressed)
    report = report_stage(job, dense, compressed, measured)
    ship_stage(job, compressed)
    return report


# --- the stages, in order -------------------------------------------------------------------------------------


def check_request(config: BuildConfig) -> tuple[list[TargetProfile], dict[str, str], tuple[Goal, ...]]:
    """Targets, the version of each one's runtime, and goals: all that can be refused before any work."""
    goals = tuple(parse_goal(text) for text in config.goal or DEFAULT_GOALS)
    profiles = list({profile.name: profile for profile in map(load_target, config.target)}.values())
    for profile in profiles:
        if config.precision not in profile.precisions:
            raise UserInputError(
                f"--precision {config.precision}: {profile.name} is built in {', '.join(profile.precisions)}"
            )
    return profiles, {profile.name: require_runtime(profile) for profile in profiles}, goals


def survey_stage(config: BuildConfig) -> Project:
    """The model, its data and its sites."""
    project = load_project(
        config.model,
        weights=config.weights,
        input_text=config.input,
        calibration=config.calibration,
        mean=config.mean,
        std=config.std,
        evaluate=config.evaluate,
        include=config.include,
        exclude=config.exclude,
    )
    for skipped in project.survey.skipped:
        log.info("%s stays as it is: %s", skipped.site, skipped.reason)
    return project


def scan_stage(project: Project) -> ErrorScan:
    """The weight errors that every target's plan rests on, each computed when it is first asked for."""
    return ErrorScan(site_weights(project.module, tuple(site.name for site in project.survey.sites)))


def factorize_stage(job: Job, plan: Plan) -> Network:
    """The planned factors, exported."""
    job.progress("factorize", 0, 1)
    model = factorized(job.project.module, plan)
    job.progress("export", 0, 1)
    exported = export_onnx(model, job.project.input)
    return realize(job, plan, model, exported, "compressed")


def realize(job: Job, plan: Plan, model: nn.Module, exported: ir.Model, name: str) -> Network:
    """Lower, verify, compile and score one network; each stage is checked against the one before."""
    folder = job.work / name
    folder.mkdir()
    tolerance = job.profile.tolerances[job.config.precision]
    job.progress(f"lower {name}", 0, 1)
    lowered = lower(exported, plan.forms, job.profile.opset)
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
        tolerance=tolerance,
    )
    job.progress(f"compile {name}", 0, 1)
    compiled = job.backend.compile(verified.path, folder / "compiled", job.profile)
    if compiled.artifact is None:
        return Network(plan, model, portable, verified, compiled, (*verified.checks, uncompiled()), None)
    with job.backend.runner(compiled, job.threads) as runner:
        check = verify_compiled(runner, job.project.input, job.project.golden, verified, tolerance)
        evaluate = job.project.evaluate
        score = score_engine(runner, job.project.input, evaluate) if evaluate else None
    return Network(plan, model, portable, verified, compiled, (*verified.checks, check), score)


def measure_stage(job: Job, dense: Network, compressed: Network) -> PairFigures | None:
    """Time and memory against dense; None where there is no engine to run here."""
    if dense.compiled.artifact is None or compressed.compiled.artifact is None:
        return None
    job.progress("measure", 0, 1)
    options = job.config.measure
    return measure_pair(
        dense.compiled.artifact,
        compressed.compiled.artifact,
        Setting(job.profile.backend, job.threads, job.project.input),
        Timing(options.seconds, options.rounds, options.warmup_seconds),
    )


def report_stage(job: Job, dense: Network, compressed: Network, measured: PairFigures | None) -> TargetReport:
    """All figures of the target, each null with its reason."""
    project = job.project
    slow, fast, speedup = (measured.dense, measured.compressed, measured.speedup) if measured else (None, None, None)
    before = model_figures(dense.model, dense.verified.path, slow, dense.accuracy)
    after = model_figures(compressed.model, compressed.verified.path, fast, compressed.accuracy)
    if speedup and speedup.verdict == "slower":
        log.warning("%s: the compressed network is slower than dense", job.profile.name)
    return target_report(
        precision=job.config.precision,
        skipped=project.survey.skipped,
        dense=before,
        compressed=after,
        measured=measured,
        no_device=compressed.compiled.reason,
        unevaluated=project.unevaluated,
        goals=[judge(goal, before, after, speedup) for goal in job.goals],
        checks=compressed.checks,
        layers=layer_table(project.survey, compressed.plan, weight_errors(project.module, compressed.model)),
        notes=(*compressed.verified.notes, *fitting_notes(project)),
    )


def ship_stage(job: Job, network: Network) -> None:
    """The intermediates, then the bundle: whole, or as it was."""
    name, output = job.profile.name, job.output
    save_model(network.portable, output.portable_onnx(name))
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
        runtime_options={},
        requires=requirement(job.profile.backend, job.runtime, job.profile.machine),
        tolerance=job.profile.tolerances[job.config.precision],
        kronexport_version=kronexport.__version__,
        rebuild=rebuild_command(job),
    )
    write_bundle(
        output.bundle(name),
        model_onnx=network.verified.path,
        compiled_files=compiled.files,
        golden=Golden({job.project.input.name: job.project.golden}, network.verified.outputs),
        manifest=manifest,
    )


# --- small print ----------------------------------------------------------------------------------------------


def fitting_notes(project: Project) -> tuple[str, ...]:
    """How the factors and the lowerings were found, for the reader of the report."""
    notes = ("factors are fitted to the weights alone", "lowerings are chosen by the target's roofline, not measured")
    return notes if project.calibrated else (*notes, "no calibration images: golden data are seeded normal values")


def first_failure(failures: Sequence[KronexportError]) -> KronexportError:
    """The one that decides the exit code; its message holds all."""
    kind = next(kind for kind in _FAILURE_ORDER if any(type(failure) is kind for failure in failures))
    return kind("\n".join(str(failure) for failure in failures))


def rebuild_command(job: Job) -> str:
    """The command that makes this output again, from the resolved configuration beside it."""
    return f"kronexport build --config {shlex.quote(str(job.output.config))}"
