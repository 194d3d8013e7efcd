"""What a planner measures with: a clock for forms of layers, rehearsals of networks, a model of what is not timed."""

import math
import time
from collections.abc import Callable, Mapping, Sequence

from kronexport.backends.profile import TargetProfile
from kronexport.config import BuildConfig, duration_seconds
from kronexport.machines.base import Machine
from kronexport.machines.here import HERE
from kronexport.measure.costs import FormTimes, measure_forms, measured_costs
from kronexport.measure.micro import Trial, micro_key
from kronexport.measure.setting import Setting, Timing
from kronexport.measure.store import MeasurementStore, conditions_of
from kronexport.plan.cost_model import CostModel, fitted_model
from kronexport.plan.kept import KeptPlans
from kronexport.plan.measured import Clock
from kronexport.plan.planner import Instruments, InstrumentsOf
from kronexport.plan.rehearsal import REHEARSAL, Rehearsal
from kronexport.records import ProgressCallback, Survey
from kronexport.request import race_timing, served_by, threads_of
from kronexport.survey.project import Project


def instruments_for(
    config: BuildConfig, project: Project, machines: Mapping[str, Machine | None] | None = None
) -> InstrumentsOf:
    """What times forms and networks of ``project``; each target has the same instruments whenever it is planned.

    ``machines``: where each target is measured; None: as ``served_by`` without a board.
    """
    made: dict[str, Instruments | None] = {}

    def instruments(profile: TargetProfile, progress: ProgressCallback) -> Instruments | None:
        if profile.name not in made:
            machine = served_by(profile, None) if machines is None else machines[profile.name]
            if machine is None or profile.backend == "tensorrt":  # each form would need an engine: decisions/0020
                made[profile.name] = None
            else:
                made[profile.name] = _instruments(config, project, profile, progress, machine)
        return made[profile.name]

    return instruments


def _instruments(
    config: BuildConfig, project: Project, profile: TargetProfile, progress: ProgressCallback, machine: Machine
) -> Instruments:
    longest, asked = REHEARSAL, config.measure
    timing = Timing(
        seconds=min(longest.seconds, asked.seconds),
        rounds=min(longest.rounds, asked.rounds),
        warmup_seconds=min(longest.warmup_seconds, asked.warmup_seconds),
    )
    setting = Setting(profile.backend, threads_of(config, profile), project.input, machine=machine)
    rehearsal = Rehearsal(project.module, profile.opset, setting, timing, progress, config.precision)
    model = cost_model_of(config, project.survey, profile, machine)
    threads, budget = threads_of(config, profile), config.time_budget
    where = conditions_of(profile.backend, threads, config.precision, race_timing(config), machine=machine)
    kept = KeptPlans(repr((where.description, timing, budget)), config.resume)
    return Instruments(model, clock_of(config, profile, progress, machine=machine), rehearsal, kept)


def clock_of(
    config: BuildConfig,
    profile: TargetProfile,
    progress: ProgressCallback,
    now: Callable[[], float] = time.monotonic,
    *,
    machine: Machine = HERE,
) -> Clock:
    """What times forms on ``machine``, from the store where it can, until the time budget is spent on that.

    Args:
        config: the budget, and how long a form is timed.
        profile: of the target.
        progress: told ("measure", done, total).
        now: seconds of a clock that only moves on.
        machine: where they run.
    """
    budget = math.inf if config.time_budget is None else duration_seconds(config.time_budget)
    spent = 0.0

    def clock(trials: Sequence[Trial]) -> FormTimes:
        nonlocal spent
        started, before = now(), spent
        with MeasurementStore() as store:
            found = measure_forms(
                trials,
                profile,
                threads_of(config, profile),
                store,
                progress=progress,
                timing=race_timing(config),
                time_is_up=lambda: before + now() - started >= budget,
                precision=config.precision,
                machine=machine,
            )
        spent = before + now() - started
        return found

    return clock


def cost_model_of(config: BuildConfig, survey: Survey, profile: TargetProfile, machine: Machine = HERE) -> CostModel:
    """What estimates forms before they are timed: fitted to what was timed on ``machine`` as ``clock_of`` does.

    Layers of the network itself are left out. So what is timed for a plan does not change the shortlists of the same
    plan, and making it again measures nothing.
    """
    with MeasurementStore() as store:
        costs = measured_costs(
            profile, threads_of(config, profile), store, race_timing(config), config.precision, machine=machine
        )
    own = {micro_key(Trial.left_dense(site), profile.opset, config.precision) for site in survey.sites}
    return fitted_model(profile, [cost for cost in costs if cost.layer not in own])
