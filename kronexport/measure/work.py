"""What a form gives a device to do: its Convs and the images that it rearranges, by sizes alone.

Roofline and cost model (``plan/``) are sums over it. It says nothing of a device, so it is kept beside measured times,
and a model can be fitted to them without the forms.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import mul
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kronexport.lower.axes import BATCH_AXIS, rank_axis
from kronexport.lower.forms import Form, Step

WORK_VERSION: Final = 1
"""To be raised with every change of what a number in ``Work`` means."""


Ranks = NDArray[np.int64]
Count = int | NDArray[Any]
"""A number, or one for each rank of a ladder."""


class ConvWork(NamedTuple):
    """One Conv: channels in each group, ``kernel`` elements, pixels of each image that it reads and writes."""

    images: Count
    groups: Count
    inputs: Count
    outputs: Count
    kernel: Count
    read: Count
    written: Count

    @property
    def weights(self) -> Count:
        """Elements of its weight as it is stored."""
        return self.groups * self.inputs * self.outputs * self.kernel

    @property
    def macs(self) -> Count:
        return self.images * self.weights * self.written

    @property
    def moved(self) -> Count:
        """Elements that it reads and writes, its weight included."""
        image = self.inputs * self.read + self.outputs * self.written
        return self.groups * self.images * image + self.weights


class Work(NamedTuple):
    """All that one inference does: Convs in order, and the elements of each image that is rearranged.

    ``transposes``: of a Transpose. ``joints``: where a Transpose or a Reshape stands behind a Conv, for which a runtime
    leaves the layout in which it convolves; a pair of Convs has it between them, and the layer at its end.
    """

    convs: tuple[ConvWork, ...]
    transposes: tuple[Count, ...] = ()
    joints: tuple[Count, ...] = ()

    @property
    def macs(self) -> Count:
        return sum(conv.macs for conv in self.convs)

    @property
    def moved(self) -> Count:
        """Elements that Convs and Transposes read and write."""
        return sum(conv.moved for conv in self.convs) + 2 * sum(self.transposes)

    @property
    def weights(self) -> Count:
        """Elements of all weights as they are stored."""
        return sum(conv.weights for conv in self.convs)


@dataclass(frozen=True, slots=True)
class MeasuredCost:
    """A time of the store without its form: what was done, in which layer, and the seconds of one inference."""

    layer: str
    work: Work
    seconds: float


def work_of(form: Form, batch: int, ladder: Mapping[str, Ranks] | None = None) -> Work:
    """Of ``form`` on ``batch`` images.

    Args:
        form: which.
        batch: images.
        ladder: by the letter of a rank axis the sizes that it takes, [ranks], in place of the one that it has: then
            every count that depends on it is an array [ranks]. An axis of size 1 does not exist, and keeps it.
    """
    if not form.steps:
        return Work((_dense(form, batch),))
    sizes = _sizes(form, batch, ladder or {})
    filters = form.structure.weight_shape[0]
    result = batch * filters * math.prod(form.steps[-1].contraction.output_size)
    convs: list[ConvWork] = []
    transposes: list[Count] = []
    joints: list[Count] = []
    places: tuple[set[str], set[str]] = {BATCH_AXIS}, set()
    for step in form.steps:
        conv = _conv(step, sizes)
        image = conv.images * conv.groups * conv.inputs * conv.read
        if step.transpose_from is not None:
            transposes.append(image)
        if convs and (step.transpose_from is not None or places != (set(step.batch), set(step.rows))):
            joints.append(image)
        places = set(step.batch), set(step.rows)
        convs.append(conv)
    if form.final_transpose_from is not None:
        transposes.append(result)
    if form.final_transpose_from is not None or places != ({BATCH_AXIS}, set()):
        joints.append(result)
    return Work(tuple(convs), tuple(transposes), tuple(joints))


def work_text(work: Work) -> str:
    """JSON that ``read_work`` reads."""
    return json.dumps(work)


def read_work(text: str) -> Work:
    """The work that ``work_text`` wrote."""
    convs, transposes, joints = json.loads(text)
    return Work(tuple(ConvWork(*conv) for conv in convs), tuple(transposes), tuple(joints))


def _sizes(form: Form, batch: int, ladder: Mapping[str, Ranks]) -> dict[str, Count]:
    """Of every axis."""
    sizes: dict[str, Count] = {**form.sizes, BATCH_AXIS: batch}
    for letter, ranks in ladder.items():
        if form.sizes.get(rank_axis(letter), 1) > 1:
            sizes[rank_axis(letter)] = ranks
    return sizes


def _conv(step: Step, sizes: Mapping[str, Count]) -> ConvWork:
    images, groups, inputs, outputs, rows = (
        reduce(mul, (sizes[axis] for axis in axes), 1)
        for axes in (step.batch, step.groups, step.inputs, step.outputs, step.rows)
    )
    return ConvWork(
        images=images,
        groups=groups,
        inputs=inputs,
        outputs=outputs,
        kernel=math.prod(step.contraction.geometry.kernel),
        # rows of several images stand below each other only where the kernel works within each row
        read=rows * math.prod(step.contraction.input_size),
        written=rows * math.prod(step.contraction.output_size),
    )


def _dense(form: Form, batch: int) -> ConvWork:
    geometry, (filters, inputs, *_) = form.geometry, form.structure.weight_shape
    return ConvWork(
        images=batch,
        groups=geometry.group,
        inputs=inputs,
        outputs=filters // geometry.group,
        kernel=math.prod(geometry.kernel),
        read=math.prod(form.input_size),
        written=math.prod(geometry.output_size(form.input_size)),
    )
