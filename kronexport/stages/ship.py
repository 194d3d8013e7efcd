"""The bundle of a target, and the command that makes it again."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

import kronexport
from kronexport.config import BuildConfig
from kronexport.export.factors_file import save_compressed
from kronexport.export.onnx_export import save_model
from kronexport.files import write_text_aside
from kronexport.machines.here import HERE
from kronexport.plan.plan_file import plan_toml
from kronexport.ship.bundle import write_bundle
from kronexport.ship.golden import Golden
from kronexport.ship.manifest import build_manifest, requirement, session_options
from kronexport.stages.job import Job, Network


def ship_stage(job: Job, dense: Network, network: Network, protocol: Mapping[str, Any]) -> None:
    """The intermediates, then the bundle: whole, or as it was. ``protocol`` is that of its figures."""
    name, output = job.profile.name, job.output
    save_model(network.portable, output.portable_onnx(name))
    save_model(ir.load(dense.verified.path), output.target_dense_onnx(name))
    save_compressed(network.model, output.factors(name))
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
        "farm": "tcp://FARM:8786" if config.farm and job.machine is not HERE else "",
        "device-python": "PYTHON" if there and config.device_python != usual_python else "",
    }
    measure = config.measure.model_dump(exclude_defaults=True, exclude={"threads"})
    several = {
        "goal": config.goal,
        "include": config.include,
        "exclude": config.exclude,
        "set": [
            *(f"measure.{key}={value}" for key, value in measure.items()),
            *(f"recipe.{key}={value}" for key, value in config.recipe.items()),
        ],
    }
    words = ["kronexport", "build", _without_folder(config.model), "--target", job.profile.name]
    words += [word for flag, value in given.items() if value for word in (f"--{flag}", value)]
    words += [word for flag, values in several.items() for value in values for word in (f"--{flag}", value)]
    words += ["--allow-fallback"] if config.allow_fallback else []
    words += ["--allow-unmeasured"] if config.allow_unmeasured else []
    return shlex.join(words)


def _without_folder(source: str) -> str:
    """``net.py:make`` of ``/some/where/net.py:make``; samples and dotted modules have no folder."""
    return source if source.startswith("sample:") else Path(source).name
