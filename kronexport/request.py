"""What a build was asked for, checked before any work."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kronexport.asked import read_asked
from kronexport.backends import BACKENDS, require_runtime
from kronexport.backends.fit import check_fits
from kronexport.backends.profile import TargetProfile, load_target
from kronexport.backends.tensorrt import is_board
from kronexport.backends.trt_machine import TrtMachine
from kronexport.config import BuildConfig
from kronexport.errors import UserInputError, named
from kronexport.farm.access import opened
from kronexport.machines.address import Address
from kronexport.machines.base import Host, Machine
from kronexport.machines.board import Board
from kronexport.machines.here import HERE
from kronexport.measure.race import RaceTiming
from kronexport.plan.goals import Goal
from kronexport.plan.plan_file import PlanFile, read_plan_file
from kronexport.survey.project import Project

if TYPE_CHECKING:
    from kronexport.farm.farm import Farm
    from kronexport.farm.fleet import Fleet


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for, as far as it can be read without the model.

    ``runtimes`` holds each target's version, that of the board for a target that is one; ``machines`` where each is
    measured: None where nowhere.
    """

    config: BuildConfig
    profiles: tuple[TargetProfile, ...]
    runtimes: dict[str, str]
    machines: dict[str, Machine | None]
    goals: tuple[Goal, ...]
    plan: PlanFile | None


@contextmanager
def board_of(config: BuildConfig) -> Iterator[Board | None]:
    """The board of ``--device``, which is nobody else's until it is left."""
    if config.device is None:
        yield None
        return
    with Board(Address.parse(config.device), config.device_python) as board:
        yield board


@contextmanager
def farm_of(config: BuildConfig) -> Iterator["Farm | None"]:
    """The farm of ``--farm``; what still runs there when it is left is cancelled.

    Raises:
        UserInputError: there is a ``--device``, too.
        MissingRuntimeError: dask is not installed, or another release than the scheduler's.
        BoardError: there is no scheduler.
    """
    if config.farm is not None and config.device is not None:
        raise UserInputError(f"--farm {config.farm}: there is --device {config.device}, too; give one of them")
    with opened(config.farm) as farm:
        yield farm


def check_request(config: BuildConfig, board: Board | None = None, farm: "Farm | None" = None) -> Request:
    """All that can be refused before any work.

    Raises:
        UserInputError: a goal, a target, the precision or the plan is wrong, or the board is not the target, or the
            farm has none of it.
        MissingRuntimeError: a runtime is not installed, here or on the board.
        BoardError: the board cannot be reached, or is in use.
    """
    asked = read_asked(config)
    profiles = asked.profiles
    plan = None if config.plan is None else read_plan_file(config.plan)
    if plan is not None:
        with named(f"--plan {config.plan}"):
            check_plan_target(plan, profiles)
    BACKENDS["onnxruntime"].require()  # every target's stages are verified in it
    runtimes = {profile.name: require_runtime(profile) for profile in profiles}
    if board is not None:
        runtimes |= board_runtimes(profiles, board)
    machines = {profile.name: served_by(profile, board) for profile in profiles}
    for profile, fleet in fleets_of(config, profiles, farm):
        machines[profile.name] = fleet
        runtimes[profile.name] = fleet.environment(profile.backend)["runtime_version"]
    return Request(config, profiles, runtimes, machines, asked.goals, plan)


def served_by(profile: TargetProfile, board: Host | None) -> Machine | None:
    """Where the target is planned, verified and measured: here, or on the board; None: nowhere but by its roofline.

    Of TensorRT the machine that drives its trtexec; here, too, if this machine is the board itself.
    """
    if profile.backend != "tensorrt":
        return HERE if profile.measured_here else board
    host = HERE if board is None and is_board(profile) else board
    return None if host is None else TrtMachine.of(host)


def fleets_of(
    config: BuildConfig, profiles: Sequence[TargetProfile], farm: "Farm | None"
) -> list[tuple[TargetProfile, "Fleet"]]:
    """The targets that the farm has boards of, with these; a target that is whatever machine builds may have none.

    Raises:
        UserInputError: it has none of a target that is a device, or of any target.
        BoardError: none of those that it has can be used.
    """
    if farm is None:
        return []
    from kronexport.farm.fleet import Fleet, Terms  # noqa: PLC0415  needs the extra "farm"

    there = {seen.profile for seen in farm.seen()}
    without = [profile for profile in profiles if profile.name not in there]
    if len(without) == len(profiles) or any(not profile.measured_here for profile in without):
        raise UserInputError(
            f"--farm {farm.address}: it has no board {', '.join(profile.name for profile in without)}, but "
            f"{', '.join(sorted(there)) or 'none at all'}; start one by: kronexport farm worker"
        )
    terms = [
        Terms(profile, threads_of(config, profile), config.precision, race_timing(config))
        for profile in profiles
        if profile.name in there
    ]
    return [(each.profile, Fleet(farm, each)) for each in terms]


def board_runtimes(profiles: Sequence[TargetProfile], board: Machine) -> dict[str, str]:
    """The version of the runtime on the board, for each target that it is: there the engines are verified.

    Raises:
        UserInputError: the board is none of the targets, or not the one that a target describes.
        MissingRuntimeError: it does not have the runtime, or another release of it.
        BoardError: it cannot be reached, or is in use.
    """
    devices = [profile for profile in profiles if not profile.measured_here]
    if not devices:
        raise UserInputError(
            f"--device {board.place}: {', '.join(profile.name for profile in profiles)} is whatever machine builds, "
            "expected a target that is a device: kronexport targets list"
        )
    versions = {}
    for profile in devices:
        found = board.environment(profile.backend)
        check_fits(profile, board.place, found)
        versions[profile.name] = found["runtime_version"]
    return versions


def check_batches(config: BuildConfig, project: Project) -> None:
    """Refuse a dynamic batch whose usual number of samples, which is planned for, is not the input's."""
    batches, batch = config.batches, project.input.shape[0]
    if batches is not None and batches.opt != batch:
        sizes = "x".join(map(str, (batches.opt, *project.input.shape[1:])))
        raise UserInputError(
            f"--dynamic-batch {config.dynamic_batch}: OPT is {batches.opt}, the input has a batch of {batch}; expected "
            f"the same, since plans are made for it: give --input {sizes}, or {batch} as OPT"
        )


def threads_of(config: BuildConfig, profile: TargetProfile) -> int:
    """Threads of one inference."""
    return config.threads or config.measure.threads or profile.threads


def race_timing(config: BuildConfig) -> RaceTiming:
    """As usual, or shorter where finished networks are timed for less than a race."""
    usual, asked = RaceTiming(), config.measure
    return replace(
        usual,
        seconds=min(usual.seconds, asked.seconds),
        rounds=min(usual.rounds, asked.rounds),
        warmup_seconds=min(usual.warmup_seconds, asked.warmup_seconds),
    )


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
