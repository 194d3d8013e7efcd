"""The time of a form on a target that has not been measured: a roofline, summed over its steps.

    t = sum over nodes of max(padded MACs / peak, bytes moved / bandwidth) + launch

(Williams, Waterman, Patterson, "Roofline", CACM 2009.) Channels per group are padded to the multiple that the target
computes in, since a group of 3 channels occupies lanes for 8 or 16. An estimate only ranks and
shortlists; it is never reported as a measurement.
"""

import math
from dataclasses import replace

from kronexport.backends.profile import TargetProfile
from kronexport.lower.forms import Form
from kronexport.records import ConvGeometry, Pair

FLOAT_BYTES = 4


def conv_seconds(
    channels: Pair, geometry: ConvGeometry, input_size: Pair, profile: TargetProfile, batch: int = 1
) -> float:
    """Estimate for a conv with ``channels`` = (F, C / group), in seconds."""
    groups, inputs, outputs = geometry.group, channels[1], channels[0] // geometry.group
    pixels, kernel = math.prod(geometry.output_size(input_size)), math.prod(geometry.kernel)
    depthwise = inputs == 1 and outputs == 1
    lanes = _padded(groups, profile) if depthwise else groups * _padded(inputs, profile) * _padded(outputs, profile)
    moved = batch * groups * (inputs * math.prod(input_size) + outputs * pixels) + groups * inputs * outputs * kernel
    return _node(batch * lanes * pixels * kernel, moved, profile)


def form_seconds(form: Form, profile: TargetProfile) -> float:
    """Estimate for one inference of a form at batch 1, in seconds."""
    if not form.steps:
        return conv_seconds(form.structure.weight_shape[:2], form.geometry, form.input_size, profile)
    total = 0.0
    for step in form.steps:
        size = form.image_size(step)
        batch, groups = form.channels(step.batch), form.channels(step.groups)
        channels = groups * form.channels(step.outputs), form.channels(step.inputs)
        if step.transpose_from is not None:
            total += _transpose(batch * groups * channels[1], size, profile)
        total += conv_seconds(channels, replace(step.contraction.geometry, group=groups), size, profile, batch)
    if form.final_transpose_from is not None:
        total += _transpose(form.structure.weight_shape[0], form.steps[-1].contraction.output_size, profile)
    return total


def _padded(channels: int, profile: TargetProfile) -> int:
    return math.ceil(channels / profile.rank_multiple) * profile.rank_multiple


def _transpose(channels: int, size: Pair, profile: TargetProfile) -> float:
    return _node(0, 2 * channels * math.prod(size), profile)


def _node(macs: int, elements: int, profile: TargetProfile) -> float:
    roofline = profile.roofline
    compute = macs / (roofline.peak_gmacs * 1e9)
    memory = elements * FLOAT_BYTES / (roofline.bandwidth_gbs * 1e9)
    return max(compute, memory) + roofline.launch_us * 1e-6
