"""One target's walk down the line, and what becomes of its networks on the way."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from torch import nn

from kronexport.backends.base import Backend, Compiled
from kronexport.backends.profile import TargetProfile
from kronexport.config import BuildConfig
from kronexport.factorize.network import KroneckerNetwork
from kronexport.machines.base import Machine
from kronexport.plan.planner import Planner
from kronexport.records import Check, Plan, ProgressCallback, Structure, Training
from kronexport.recover.recovery import Recovery
from kronexport.ship.output import OutputFolder
from kronexport.survey.project import Project
from kronexport.verify.stages import VerifiedModel


@dataclass(frozen=True, slots=True)
class FactorizedModel:
    """A model with its factors, and how it was trained, if it was."""

    module: nn.Module
    training: Training | None = None


FactorizedModels = dict[tuple[tuple[tuple[str, Structure | None], ...], bool, float | None], FactorizedModel]
"""By what each site becomes, whether training is scored and where it ends: targets alike in these share one model."""


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
