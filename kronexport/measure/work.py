"""What a form gives a device to do: its Convs and the images that it rearranges, by sizes alone.

Roofline and cost model (``plan/``) are sums over it. It says nothing of a device, so it is kept beside measured times,
and a model can be fitted to them without the forms.
"""

import json
import math
from dataclasses import dataclass
from typing import Final, NamedTuple

from kronexport.lower.axes import BATCH_AXIS
from kronexport.lower.forms import Form

WORK_VERSION: Final = 1
"""To be raised with every change of what a number in ``Work`` means."""


class ConvWork(NamedTuple):
    """One Conv: channels in each group, ``kernel`` elements, pixels of each image that it reads and writes."""

    images: int
    groups: int
    inputs: int
    outputs: int
    kernel: int
    read: int
    written: int

    @property
    def macs(self) -> int:
        return self.images * self.groups * self.inputs * self.outputs * self.kernel * self.written

    @property
    def moved(self) -> int:
        """Elements that it reads and writes, its weight included."""
        image = self.inputs * self.read + self.outputs * self.written
        return self.groups * (self.images * image + self.inputs * self.outputs * self.kernel)


class Work(NamedTuple):
    """All that one inference does: Convs in order, and the elements of each image that is rearranged.

    ``transposes``: of a Transpose. ``joints``: where a Transpose or a Reshape stands behind a Conv, for which a runtime
    leaves the layout in which it convolves; a pair of Convs has it between them, and the layer at its end.
    """

    convs: tuple[ConvWork, ...]
    transposes: tuple[int, ...] = ()
    joints: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class MeasuredCost:
    """A time of the store without its form: what was done, in which layer, and the seconds of one inference."""

    layer: str
    work: Work
    seconds: float


def work_of(form: Form, batch: int) -> Work:
    """Of ``form`` on ``batch`` images."""
    if not form.steps:
        return Work((_dense(form, batch),))
    filters = form.structure.weight_shape[0]
    result = batch * filters * math.prod(form.steps[-1].contraction.output_size)
    convs: list[ConvWork] = []
    transposes: list[int] = []
    joints: list[int] = []
    places: tuple[set[str], set[str]] = {BATCH_AXIS}, set()
    for step in form.steps:
        size = form.image_size(step)
        groups, inputs = form.channels(step.groups), form.channels(step.inputs)
        conv = ConvWork(
            images=batch * form.channels(step.batch),
            groups=groups,
            inputs=inputs,
            outputs=form.channels(step.outputs),
            kernel=math.prod(step.contraction.geometry.kernel),
            read=math.prod(size),
            written=math.prod(step.contraction.geometry.output_size(size)),
        )
        image = conv.images * groups * inputs * conv.read
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
