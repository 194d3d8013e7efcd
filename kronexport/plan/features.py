"""What the time of a form is explained by: counts that add up over its Convs and rearranged images.

Multiply-accumulates go by the kind of Conv, since runtimes have a kernel for each. Output channels of a group are
padded to 16, one register of 512 bits: what a group lacks to that is computed too.
"""

import math
from operator import mul
from typing import Final, Literal, NamedTuple

from kronexport.backends.profile import TargetProfile
from kronexport.measure.work import ConvWork, Work
from kronexport.plan.roofline import FLOAT_BYTES

LANES: Final = 16
"""Channels in a register."""

Kind = Literal["full", "pointwise", "wide", "narrow", "depthwise"]


class Features(NamedTuple):
    """Counts of one inference, or the seconds that one of each takes.

    Padded multiply-accumulates of Convs by kind: ``full`` k x k and ``pointwise`` 1 x 1 without groups, ``wide`` groups
    of whole registers, ``narrow`` ones, ``depthwise``. ``unfolded``: elements of the matrix that a k x k Conv of narrow
    groups is turned into. ``moved``: elements that Convs read and write. ``transposed`` and ``relaid``: elements read
    and written by Transposes, and by changes from a runtime's own layout and back. ``nodes``: operators that run.
    """

    full: float = 0.0
    pointwise: float = 0.0
    wide: float = 0.0
    narrow: float = 0.0
    depthwise: float = 0.0
    unfolded: float = 0.0
    moved: float = 0.0
    transposed: float = 0.0
    relaid: float = 0.0
    nodes: float = 0.0

    def dot(self, other: "Features") -> float:
        """Seconds, of counts and the seconds that one of each takes."""
        return float(sum(map(mul, self, other)))


def features_of(work: Work) -> Features:
    """The counts of a form's work."""
    macs: dict[Kind, float] = {}
    unfolded = 0
    for conv in work.convs:
        kind = kind_of(conv)
        macs[kind] = macs.get(kind, 0) + _padded_macs(conv, kind)
        if kind == "narrow" and conv.kernel > 1:
            unfolded += conv.images * conv.groups * conv.inputs * conv.kernel * conv.written
    return Features(
        **macs,
        unfolded=unfolded,
        moved=sum(conv.moved for conv in work.convs),
        transposed=2 * sum(work.transposes),
        relaid=2 * sum(work.joints),
        nodes=len(work.convs) + len(work.transposes) + len(work.joints),
    )


def kind_of(conv: ConvWork) -> Kind:
    """Which of a runtime's kernels a Conv is for."""
    if conv.groups == 1:
        return "full" if conv.kernel > 1 else "pointwise"
    if conv.inputs == 1 and conv.outputs == 1:
        return "depthwise"
    return "narrow" if conv.inputs % LANES or conv.outputs % LANES else "wide"


def roofline_prices(profile: TargetProfile) -> Features:
    """The seconds that one of each takes by the target's roofline, where nothing overlaps."""
    mac = 1 / (profile.roofline.peak_gmacs * 1e9)
    element = FLOAT_BYTES / (profile.roofline.bandwidth_gbs * 1e9)
    launch = profile.roofline.launch_us * 1e-6
    return Features(
        full=mac,
        pointwise=mac,
        wide=mac,
        narrow=mac,
        depthwise=mac,
        unfolded=element,
        moved=element,
        transposed=element,
        relaid=element,
        nodes=launch,
    )


def _padded_macs(conv: ConvWork, kind: Kind) -> float:
    if kind == "depthwise":
        return conv.macs
    return conv.macs / conv.outputs * math.ceil(conv.outputs / LANES) * LANES
