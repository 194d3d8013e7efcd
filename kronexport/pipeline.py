"""The line that a build runs along; the order of execution lives only here.

    survey -> plan -> factorize -> (recover) -> export -> lower -> verify -> (int8, fp16: precision) -> compile
           -> measure -> ship

``run`` surveys the model once and then walks each target down the rest of the line: ``build_target``. What a stage
does with a target is in ``stages/``, how in the folder of its name.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from kronexport.backends import backend_on
from kronexport.backends.profile import TargetProfile, load_target
from kronexport.config import BuildConfig, config_toml, load_config
from kronexport.errors import (
    BundleError,
    GoalError,
    KronexportError,
    VerificationError,
    as_failure,
    error_of,
    named,
)
from kronexport.export.onnx_export import export_onnx, save_model
from kronexport.export.replace import without_factors
from kronexport.factorize.network import KroneckerNetwork
from kronexport.files import write_text_aside
from kronexport.instruments import instruments_for
from kronexport.plan.accuracy import unscored
from kronexport.plan.given import given_plan
from kronexport.plan.goals import missed_goals
from kronexport.plan.plan_file import plan_toml
from kronexport.plan.planner import Planner, form_chooser
from kronexport.records import Plan, ProgressCallback, Report, TargetReport, silent
from kronexport.recover.recovery import load_recovery
from kronexport.request import (
    Request,
    board_of,
    check_batches,
    check_plan_out,
    check_request,
    farm_of,
    threads_of,
)
from kronexport.ship.output import OutputFolder, check_output, prepare_output, remove_stale
from kronexport.ship.report_html import write_report_html
from kronexport.ship.report_json import write_report_json
from kronexport.stages.compress import compress_stage, scan_stage, shipped_dense
from kronexport.stages.job import FactorizedModels, Job
from kronexport.stages.measure import batch_figures, layer_times, measure_stage, misses_latency, precision_notes
from kronexport.stages.realize import realize
from kronexport.stages.report import report_stage
from kronexport.stages.ship import ship_stage
from kronexport.survey.inputs import is_folder
from kronexport.survey.model import load_model
from kronexport.survey.project import Project, load_project

log = logging.getLogger("kronexport")

_FAILURE_ORDER = (1, VerificationError.exit_code, BundleError.exit_code, GoalError.exit_code)
"""With several targets the first of these exit codes that applies; any other comes last."""


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


def build(model: str, **options: Any) -> Report:
    """Build ``model`` and return the report; what ``kronexport build`` does, as a function.

    Args:
        model: ``sample:NAME``, ``pkg.mod:factory``, ``path/file.py:factory`` or ``path/file.pt2``.
        options: the fields of ``kronexport.config.BuildConfig``: ``target=("cpu",)``, ``goal=...``

    Returns:
        The report, also where a goal was missed: its ``goals`` say so.

    Raises:
        KronexportError: the subclass that says what is wrong.
    """
    outcome = run(load_config(None, {"model": model, **options}, []))
    if outcome.failure is not None and not isinstance(outcome.failure, GoalError):
        raise outcome.failure
    return outcome.report


def run(config: BuildConfig, progress: ProgressCallback = silent) -> Outcome:
    """Build every target of ``config``; what is shipped is complete, whatever happens to the other targets.

    Raises:
        UserInputError: something in the configuration, the model or the data is wrong; nothing was written.
        MissingRuntimeError: a runtime is not installed; nothing was written.
        BoardError: the board cannot be reached, or is in use; nothing was written.
        KronexportError: no target could be built: an earlier output is as it was.
    """
    with farm_of(config) as farm, board_of(config) as board:
        return build_targets(check_request(config, board, farm), progress)


def build_targets(request: Request, progress: ProgressCallback) -> Outcome:
    """Every target of a request, one after the other; raises as ``run``."""
    config = request.config
    check_output(config.out)
    project, fixed = survey_stage(config)
    check_batches(config, project)
    recovery = load_recovery(
        config.recover, config.epochs, project.input, mean=config.mean, std=config.std, recipe=config.recipe
    )
    planner = planner_of(request, project, fixed, progress)
    dense = export_onnx(project.module, project.input)
    reports: dict[str, TargetReport] = {}
    failures: list[KronexportError] = []
    models: FactorizedModels = {}
    with prepare_output(config.out) as output:
        for profile in request.profiles:
            with collected(failures, profile.name), output.work_folder(profile.name) as work:
                job = Job(
                    project=project,
                    fixed=fixed,
                    planner=planner,
                    factorized=models,
                    recovery=recovery,
                    config=config,
                    profile=profile,
                    backend=backend_on(profile, request.machines[profile.name], config.batches),
                    runtime=request.runtimes[profile.name],
                    machine=request.machines[profile.name],
                    threads=threads_of(config, profile),
                    output=output,
                    work=work,
                    progress=progress,
                )
                reports[profile.name] = build_target(job, dense)
        if not reports:
            raise first_failure(failures)
        report = Report(config.model, reports)
        publish(report, dense, with_goals(config, planner, request.profiles), output)
    failures += missed_goals(report, allow_unmeasured=config.allow_unmeasured)
    return Outcome(report, output, first_failure(failures) if failures else None)


def dry_run(config: BuildConfig, progress: ProgressCallback = silent, out: Path | None = None) -> DryRun:
    """Survey the model and plan every target; writes nothing but, if asked to, the plan of the one target to ``out``.

    Raises:
        UserInputError: as ``run``; ``out`` is a folder or in none, or there are several targets.
        MissingRuntimeError: a runtime is not installed.
        GoalError: no plan meets the goals.
    """
    with farm_of(config) as farm, board_of(config) as board:
        request = check_request(config, board, farm)
        if out is not None:
            check_plan_out(out, request.profiles)
        project, fixed = survey_stage(config)
        check_batches(config, project)
        planner = planner_of(request, project, fixed, progress)
        plans = tuple(first_plan(planner, profile, progress) for profile in request.profiles)
    if out is not None:
        write_text_aside(out, plan_toml(plans[0]))
    return DryRun(project, plans)


def first_plan(planner: Planner, profile: TargetProfile, progress: ProgressCallback) -> Plan:
    """The plan that a build begins with; a note says where that is not what it ends with."""
    plan = planner.plan(profile, progress)
    return plan if planner.drop_alone(profile) is None else unscored(plan)


def build_target(job: Job, dense_export: ir.Model) -> TargetReport:
    """One target, from plan to bundle; raises as ``run`` does, and then ships nothing for it."""
    module = job.project.module
    plan = job.planner.plan(job.profile, job.progress)
    dense = realize(job, job.planner.dense(job.profile, job.progress), module, dense_export, "dense")
    compressed = compress_stage(job, plan, dense, [str(value.name) for value in dense_export.graph.outputs])
    measured = measure_stage(job, dense, compressed)
    if measured and measured.speedup.verdict == "slower" and misses_latency(job, dense, compressed, measured):
        reason = "the compressed network missed the goal on latency and was slower than dense: dense is shipped"
        log.warning("%s: %s", job.profile.name, reason)
        compressed = shipped_dense(dense, compressed, reason)
        measured = measure_stage(job, dense, compressed)
    times = layer_times(job, dense, compressed)
    sizes = batch_figures(job, dense, compressed, measured)
    notes = precision_notes(job, compressed)
    report = report_stage(job, dense, compressed, measured, times=times, sizes=sizes, notes=notes)
    ship_stage(job, dense, compressed, report.protocol)
    return report


def survey_stage(config: BuildConfig) -> tuple[Project, dict[str, KroneckerNetwork]]:
    """The model with all its layers dense, its data and its sites; and the factors that it came with, by site.

    Raises:
        UserInputError: something the user named is wrong.
    """
    loaded = load_model(config.model, config.weights)
    dense, fixed = without_factors(loaded.module)
    is_for_recover = is_folder(config.recover) and not is_folder(config.calibration)
    project = load_project(
        replace(loaded, module=dense),
        fixed=fixed,
        input_text=config.input,
        calibration=config.calibration,
        mean=None if is_for_recover else config.mean,
        std=None if is_for_recover else config.std,
        evaluate=config.evaluate,
        include=config.include,
        exclude=config.exclude,
    )
    return project, fixed


def planner_of(
    request: Request, project: Project, fixed: Mapping[str, KroneckerNetwork], progress: ProgressCallback
) -> Planner:
    """What plans every target: the user's own plan is checked, and weights are scanned if a target needs that.

    Raises:
        UserInputError: the user's plan does not fit the model.
    """
    structures = {site: network.structure for site, network in fixed.items()}
    instruments = instruments_for(request.config, project, request.machines)
    given = None
    if request.plan is not None:
        profile = load_target(request.plan.target)
        with named(f"--plan {request.config.plan}"):
            form_of = form_chooser(instruments(profile, progress), profile)
            given = given_plan(request.plan, project.survey, structures, form_of)
    scan = scan_stage(project, fixed)
    planner = Planner(project.survey, scan, request.goals, structures, given, instruments, request.config.precision)
    if any(map(planner.needs_scan, request.profiles)):
        scan.prefetch(progress)
    return planner


def with_goals(config: BuildConfig, planner: Planner, profiles: Sequence[TargetProfile]) -> BuildConfig:
    """``config`` with the goals that its targets were judged by, the default ones too; as it is where these differ."""
    goals = {planner.goals_of(profile) for profile in profiles}
    if len(goals) > 1:
        return config
    return config.model_copy(update={"goal": tuple(goal.expr for goal in goals.pop())})


def publish(report: Report, dense: ir.Model, config: BuildConfig, output: OutputFolder) -> None:
    """Write what stands beside the bundles, and remove the bundles of an earlier build that it does not tell of."""
    save_model(dense, output.dense_onnx)
    write_text_aside(output.config, config_toml(config))
    write_report_json(report, output.report_json)
    write_report_html(report, output.report_html)
    remove_stale(output, report.targets)


@contextmanager
def collected(failures: list[KronexportError], target: str) -> Iterator[None]:
    """Keep what goes wrong with one target for the end, so that the others are built."""
    try:
        yield
    except (KronexportError, OSError) as error:
        failure = as_failure(error)
        failures.append(type(failure)(f"{target}: {failure}"))
        failures[-1].__cause__ = error


def first_failure(failures: Sequence[KronexportError]) -> KronexportError:
    """The one that decides the exit code; its message holds all."""
    codes = [failure.exit_code for failure in failures]
    code = next((code for code in _FAILURE_ORDER if code in codes), codes[0])
    return error_of(code)("\n".join(str(failure) for failure in failures))
