"""What the time of a form is explained by: counts that add up over its Convs and rearranged images.

Multiply-accumulates go by the kind of Conv, since runtimes have a kernel for each. Output channels of a group are
padded to 16, one register of 512 bits: what a group lacks to that is computed too.
"""

from typing import Any, Final, Literal, NamedTuple, get_args

from kronexport.backends.profile import TargetProfile
from kronexport.measure.work import ConvWork, Work
from kronexport.records import FLOAT_BYTES

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

    def dot(self, prices: "Features") -> float:
        """Seconds, of counts and the seconds that one of each takes; of a ladder's counts an array [ranks]."""
        return sum(count * price for count, price in zip(self, prices, strict=True))


def features_of(work: Work) -> Features:
    """The counts of a form's work; of a ladder's each is an array [ranks]."""
    macs: dict[str, Any] = dict.fromkeys(get_args(Kind), 0)
    unfolded: Any = 0
    moved: Any = sum(conv.moved for conv in work.convs)
    transposed: Any = 2 * sum(work.transposes)
    relaid: Any = 2 * sum(work.joints)
    for conv in work.convs:
        padded = conv.macs / conv.outputs * (-(-conv.outputs // LANES) * LANES)
        for kind, holds in _kinds(conv).items():
            macs[kind] = macs[kind] + holds * (conv.macs if kind == "depthwise" else padded)
            if kind == "narrow":
                column = conv.inputs * conv.kernel * (conv.kernel > 1)
                unfolded = unfolded + holds * conv.images * conv.groups * column * conv.written
    return Features(
        **macs,
        unfolded=unfolded,
        moved=moved,
        transposed=transposed,
        relaid=relaid,
        nodes=len(work.convs) + len(work.transposes) + len(work.joints),
    )


def kind_of(conv: ConvWork) -> Kind:
    """Which of a runtime's kernels a Conv is for."""
    return next(kind for kind, holds in _kinds(conv).items() if holds)


def _kinds(conv: ConvWork) -> dict[Kind, Any]:
    """Whether the Conv is of each kind, which it is of one: 1 or 0, or an array [ranks] of these."""
    alone, wide = 1 * (conv.groups == 1), 1 * (conv.kernel > 1)
    single = (1 - alone) * (conv.inputs == 1) * (conv.outputs == 1)
    whole = (1 - alone) * (conv.inputs % LANES == 0) * (conv.outputs % LANES == 0)
    return {
        "full": alone * wide,
        "pointwise": alone * (1 - wide),
        "wide": whole,
        "narrow": 1 - alone - single - whole,
        "depthwise": single,
    }


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
