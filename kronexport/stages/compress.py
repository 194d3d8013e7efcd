"""From a plan to the compressed network: factors, fitted and trained, then made real."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

from kronexport.export.onnx_export import export_onnx
from kronexport.export.replace import factorized, site_weights
from kronexport.factorize.calibrate import Calibration, image_limit
from kronexport.factorize.scan import ErrorScan
from kronexport.plan.accuracy import BUILDS, next_error, planned_error, unscored
from kronexport.plan.goals import accuracy_drop
from kronexport.records import Plan
from kronexport.recover.recovery import recovered
from kronexport.stages.job import FactorizedModel, Job, Network
from kronexport.stages.realize import realize
from kronexport.survey.project import Project
from kronexport.verify.outputs import compare, run_torch

log = logging.getLogger("kronexport")


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
        return network if allowed is None else replace(network, plan=unscored(network.plan))
    built = [(accuracy_drop(dense.accuracy, network.accuracy), network)]
    while error := next_error([(planned_error(one.plan), drop) for drop, one in built], allowed):
        job.progress("accuracy", len(built), BUILDS)
        plan = job.planner.plan(job.profile, job.progress, error)
        network = factorize_stage(job, plan, outputs, dense.accuracy)
        if network.accuracy is None or network.plan in [one.plan for _, one in built]:
            break
        built.append((accuracy_drop(dense.accuracy, network.accuracy), network))
    met = [network for drop, network in built if drop <= allowed]
    best = max(met, key=lambda one: planned_error(one.plan), default=None)
    first = built[0][1]
    if best is first and (error := planned_error(first.plan)):  # its plan was not made to be fast
        plan = job.planner.plan(job.profile, job.progress, error)
        if plan in [one.plan for _, one in built]:
            return first
        job.progress("accuracy", len(built), len(built) + 1)
        fast = factorize_stage(job, plan, outputs, dense.accuracy)
        is_met = fast.accuracy is not None and accuracy_drop(dense.accuracy, fast.accuracy) <= allowed
        return fast if is_met else first
    if best is not None:
        return best
    nearest = min(built, key=lambda pair: pair[0])[1]
    if allowed < 0:
        return nearest
    reason = f"no network of the {len(built)} that were built keeps the accuracy: dense is shipped"
    log.warning("%s: %s", job.profile.name, reason)
    return shipped_dense(dense, nearest, reason)


def shipped_dense(dense: Network, instead_of: Network, reason: str) -> Network:
    """The dense network, with the reason at each site, and what else could have been chosen."""
    plan = dense.plan
    sites = tuple(replace(choice, reason=reason) for choice in plan.sites)
    front = tuple(replace(point, chosen=point.error == 0) for point in instead_of.plan.pareto)
    return replace(dense, plan=replace(plan, sites=sites, notes=(*plan.notes, reason), pareto=front))


def factorize_stage(job: Job, plan: Plan, outputs: Sequence[str], dense_accuracy: float | None) -> Network:
    """The planned factors, fitted to the calibration images where there are some, trained if asked, and made real.

    Those that the model came with stay as they are; where there are no others, nothing is trained.
    """
    job.progress("factorize", 0, 1)
    is_scored, stop_at = scoring(job, dense_accuracy)
    key = tuple((choice.site, choice.structure) for choice in plan.sites), is_scored, stop_at
    if key not in job.factorized:
        images, told = calibration(job.project), partial(job.progress, "factorize")
        free = {site: structure for site, structure in plan.structures.items() if site not in job.fixed}
        kept = {site: job.fixed[site] for site in plan.structures if site in job.fixed}
        fitted = FactorizedModel(factorized(job.project.module, free, images, told, kept))
        for site in kept:
            fitted.module.get_submodule(site).requires_grad_(requires_grad=False)
        job.factorized[key] = recover_stage(job, fitted, stop_at, is_scored=is_scored) if free else fitted
    model = job.factorized[key]
    job.progress("export", 0, 1)
    exported = export_onnx(model.module, job.project.input, outputs)
    return replace(realize(job, plan, model.module, exported, "compressed"), training=model.training)


def scoring(job: Job, dense_accuracy: float | None) -> tuple[bool, float | None]:
    """Whether a training is scored, as goals on accuracy ask for, and the score that it ends at; None: it goes on.

    The network is scored in float: only in fp32 does that say what the engine scores.
    """
    drops = [goal.number for goal in job.planner.goals_of(job.profile) if goal.name == "accuracy_drop"]
    if not drops or dense_accuracy is None:
        return False, None
    return True, accuracy_drop(dense_accuracy, min(drops)) if job.config.precision == "fp32" else None


def recover_stage(job: Job, fitted: FactorizedModel, stop_at: float | None, *, is_scored: bool) -> FactorizedModel:
    """The model trained as ``--recover`` says, until it scores ``stop_at``; without that option as it is.

    Of a training that is scored the best epoch is taken.

    Raises:
        UserInputError: as ``distil`` and ``trained_by``.
    """
    if job.recovery is None:
        return fitted
    job.progress("recover", 0, 1)
    project, dense = job.project, job.project.module
    evaluate = project.evaluate if is_scored else None
    model, training = recovered(
        job.recovery, fitted.module, dense, progress=job.progress, evaluate=evaluate, stop_at=stop_at
    )
    batch = project.input.shape[0]
    wanted = run_torch(dense, project.golden, batch)
    before, after = (
        compare("factorized", "dense", run_torch(one, project.golden, batch), wanted, None).rel_l2
        for one in (fitted.module, model)
    )
    is_judged_by_images = training.kind == "distillation" and not is_scored and project.calibration is not None
    if is_judged_by_images and before is not None and after is not None and after > before:
        log.warning(
            "training took the outputs further from the dense network's: relative L2 %.3g before, %.3g after; give "
            "more epochs or images, or a lower recipe.learning_rate",
            *(before, after),
        )
    return FactorizedModel(model, replace(training, error_before=before, error_after=after))


def calibration(project: Project) -> Calibration | None:
    """The images that factors are fitted to, in batches of the input's size."""
    if project.calibration is None:
        return None
    return Calibration(project.calibration, project.input.shape[0], image_limit(project.survey.sites))
