"""What is measured of the two networks once they are there."""

import logging
from dataclasses import replace

from kronexport.backends.tensorrt import NO_DEVICE
from kronexport.errors import KronexportError
from kronexport.lower.graph_edit import static_shape
from kronexport.measure.latency import bench_models
from kronexport.measure.layers import PROFILED, profile_layers, site_times, sites_of_nodes
from kronexport.measure.pair import PairFigures, SideFigures, measure_pair
from kronexport.measure.setting import Setting, Timing
from kronexport.plan.goals import judge
from kronexport.records import BatchFigures, ModelFigures
from kronexport.ship.summary import LayerTimes, model_figures, planned_times
from kronexport.stages.job import Job, Network

log = logging.getLogger("kronexport")


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
    try:
        before, after = (
            site_times(profile_layers(artifact, setting), sites_of_nodes(network.verified.path, names))
            for network, artifact in ((dense, artifacts[0]), (compressed, artifacts[1]))
        )
    except KronexportError as error:  # the networks are there and measured all the same
        log.warning("%s: layers have no times: %s", job.profile.name, error)
        return LayerTimes(reason=f"the profiling run failed: {error}")
    reason = "the engine runs it in one layer with another's nodes, or does not name it"
    return LayerTimes(before, after, reason, "the engine's layers, in a profiling run of its own")


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


def misses_latency(job: Job, dense: Network, compressed: Network, measured: PairFigures) -> bool:
    """Whether a goal on latency is not met."""
    before, after = figures(dense, measured.dense), figures(compressed, measured.compressed)
    latency = (goal for goal in job.planner.goals_of(job.profile) if goal.name == "latency")
    return any(judge(goal, before, after, measured.speedup).met is False for goal in latency)


def figures(network: Network, measured: SideFigures | None) -> ModelFigures:
    """The report's figures of one network."""
    batch, *_ = static_shape(network.portable.graph.inputs[0]) or (1,)
    return model_figures(network.model, network.verified.path, batch, measured, network.accuracy)
