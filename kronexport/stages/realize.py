"""A planned network made real: lowered, verified, brought to its precision, compiled and scored."""

import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import nn

from kronexport.backends.base import Compiled, Runner
from kronexport.backends.tensorrt import NO_DEVICE, NO_SCORE
from kronexport.export.onnx_export import export_onnx, save_model
from kronexport.export.operator import attach_functions
from kronexport.lower.dynamic_batch import with_dynamic_batch
from kronexport.lower.lowering import lower
from kronexport.machines.here import HERE
from kronexport.machines.runner import MachineRunner
from kronexport.precision.quantize import Scheme
from kronexport.records import Plan
from kronexport.stages.job import Job, Network
from kronexport.survey.project import Project
from kronexport.verify.batches import verify_engine, verify_lowered
from kronexport.verify.half import verify_half
from kronexport.verify.quantized import verify_quantized
from kronexport.verify.score import score_engine
from kronexport.verify.stages import VerifiedModel, uncompiled, verify_compiled, verify_stages

RANGE_IMAGES = 128
"""Of calibration that the ranges of activations in int8 and FP16 are taken from."""


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


def why_unscored(job: Job) -> str | None:
    """Why the engine itself is not scored; None if it is, wherever there is an evaluator."""
    if job.machine is None:
        return NO_DEVICE
    return NO_SCORE if job.profile.backend == "tensorrt" else None


def range_feeds(project: Project) -> list[dict[str, NDArray[np.float32]]]:
    """What ranges are taken from: calibration images in batches of the input's size, else golden data."""
    images = project.golden if project.calibration is None else project.calibration[:RANGE_IMAGES]
    batch = project.input.shape[0]
    if len(images) < batch:  # too few for one batch are repeated
        images = np.resize(images, (batch, *images.shape[1:]))
    starts = range(0, len(images) - batch + 1, batch)
    return [{project.input.name: images[start : start + batch]} for start in starts]
