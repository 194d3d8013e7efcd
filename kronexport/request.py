"""What a build was asked for, checked before any work."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kronexport.backends import BACKENDS, require_runtime
from kronexport.backends.profile import TargetProfile, load_target
from kronexport.config import BuildConfig
from kronexport.errors import UserInputError, named
from kronexport.measure.costs import FormTimes, measure_forms
from kronexport.measure.micro import Trial
from kronexport.measure.race import RaceTiming
from kronexport.measure.setting import Setting, Timing
from kronexport.measure.store import MeasurementStore
from kronexport.plan.goals import Goal, parse_goal
from kronexport.plan.measured import Clock
from kronexport.plan.plan_file import PlanFile, read_plan_file
from kronexport.plan.planner import Instruments
from kronexport.plan.rehearsal import REHEARSAL, Rehearsal
from kronexport.records import ProgressCallback
from kronexport.survey.project import Project


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for, as far as it can be read without the model; ``runtimes`` holds each target's version."""

    config: BuildConfig
    profiles: tuple[TargetProfile, ...]
    runtimes: dict[str, str]
    goals: tuple[Goal, ...]
    plan: PlanFile | None


def check_request(config: BuildConfig) -> Request:
    """All that can be refused before any work.

    Raises:
        UserInputError: a goal, a target, the precision or the plan is wrong.
        MissingRuntimeError: a runtime is not installed.
    """
    goals = tuple(map(parse_goal, config.goal))
    profiles = tuple({profile.name: profile for profile in map(load_target, config.target)}.values())
    plan = None if config.plan is None else read_plan_file(config.plan)
    if plan is not None:
        with named(f"--plan {config.plan}"):
            check_plan_target(plan, profiles)
    for profile in profiles:
        if config.precision not in profile.precisions:
            raise UserInputError(
                f"--precision {config.precision}: {profile.name} is built in {', '.join(profile.precisions)}"
            )
    BACKENDS["onnxruntime"].require()  # every target's stages are verified in it
    return Request(config, profiles, {profile.name: require_runtime(profile) for profile in profiles}, goals, plan)


def threads_of(config: BuildConfig, profile: TargetProfile) -> int:
    """Threads of one inference."""
    return config.threads or config.measure.threads or profile.threads


def clock_of(config: BuildConfig, profile: TargetProfile, threads: int, progress: ProgressCallback) -> Clock:
    """What times forms on this machine, from the store where it can."""
    usual, asked = RaceTiming(), config.measure
    timing = replace(
        usual,
        seconds=min(usual.seconds, asked.seconds),
        rounds=min(usual.rounds, asked.rounds),
        warmup_seconds=min(usual.warmup_seconds, asked.warmup_seconds),
    )

    def clock(trials: Sequence[Trial]) -> FormTimes:
        with MeasurementStore() as store:
            return measure_forms(trials, profile, threads, store, progress=progress, timing=timing)

    return clock


def instruments_of(
    config: BuildConfig, project: Project, profile: TargetProfile, progress: ProgressCallback
) -> Instruments | None:
    """What times forms and networks of ``project`` on this machine; None where the target is another one."""
    if profile.board is not None:
        return None
    threads, longest, asked = threads_of(config, profile), REHEARSAL, config.measure
    timing = Timing(
        seconds=min(longest.seconds, asked.seconds),
        rounds=min(longest.rounds, asked.rounds),
        warmup_seconds=min(longest.warmup_seconds, asked.warmup_seconds),
    )
    setting = Setting(profile.backend, threads, project.input)
    rehearsal = Rehearsal(project.module, profile.opset, setting, timing, progress)
    return Instruments(clock_of(config, profile, threads, progress), rehearsal)


def check_plan_target(plan: PlanFile, profiles: Sequence[TargetProfile]) -> None:
    """Refuse a plan for a target that is not built."""
    names = [profile.name for profile in profiles]
    if load_target(plan.target).name not in names:
        raise UserInputError(
            f"target: got {plan.target!r}, expected one of those that are built: {', '.join(names)}; give --target "
            f"{plan.target}, or change it in the file to use the plan for another"
        )


def check_plan_out(out: Path, profiles: Sequence[TargetProfile]) -> None:
    """Refuse to write plans into one file, or where no file can be."""
    if len(profiles) > 1:
        raise UserInputError(
            f"--out {out}: a plan file is for one target, got {', '.join(profile.name for profile in profiles)}; "
            f"give one --target at a time"
        )
    if out.is_dir() or not out.parent.is_dir():
        found = "is a folder" if out.is_dir() else f"there is no folder {out.parent}"
        raise UserInputError(f"--out {out}: {found}; expected a file to write, such as plan.toml")
