"""The time of a form on a target that has not been measured: a roofline, summed over its steps.

    t = sum over nodes of max(padded MACs / peak, bytes moved / bandwidth) + launch

(Williams, Waterman, Patterson, "Roofline", CACM 2009.) Channels per group are padded to the multiple that the target
computes in, since a group of 3 channels occupies lanes for 8 or 16. An estimate only ranks and
shortlists; it is never reported as a measurement.
"""

import numpy as np
from numpy.typing import NDArray

from kronexport.backends.profile import TargetProfile
from kronexport.lower.forms import Form
from kronexport.measure.work import ConvWork, Count, Work, work_of
from kronexport.records import FLOAT_BYTES

Seconds = float | NDArray[np.float64]
"""An estimate, or one for each rank of a ladder."""


def form_seconds(form: Form, profile: TargetProfile, batch: int = 1) -> float:
    """Estimate for one inference of a form, in seconds."""
    return float(work_seconds(work_of(form, batch), profile))


def work_seconds(work: Work, profile: TargetProfile) -> Seconds:
    """Estimate for the Convs and Transposes of a form, in seconds; a bare Reshape costs nothing."""
    convs = sum(_node(_padded_macs(conv, profile), conv.moved, profile) for conv in work.convs)
    return convs + sum(_node(0, 2 * elements, profile) for elements in work.transposes)


def _padded_macs(conv: ConvWork, profile: TargetProfile) -> Count:
    # depthwise: lanes hold channels of different groups
    alone = _padded(conv.groups, profile)
    lanes = conv.groups * _padded(conv.inputs, profile) * _padded(conv.outputs, profile)
    single = 1 * (conv.inputs == 1) * (conv.outputs == 1)
    return conv.images * (single * alone + (1 - single) * lanes) * conv.written * conv.kernel


def _padded(channels: Count, profile: TargetProfile) -> Count:
    return -(-channels // profile.rank_multiple) * profile.rank_multiple


def _node(macs: Count, elements: Count, profile: TargetProfile) -> Seconds:
    roofline = profile.roofline
    compute = macs / (roofline.peak_gmacs * 1e9)
    memory = elements * FLOAT_BYTES / (roofline.bandwidth_gbs * 1e9)
    slower: Seconds = np.maximum(compute, memory)
    return slower + roofline.launch_us * 1e-6
