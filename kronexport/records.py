"""What crosses the border between two stages, as frozen dataclasses.

Standard library only: importing this module must stay cheap. Sizes are in elements unless a name says bytes;
spatial pairs are (height, width).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from string import ascii_letters
from typing import Any, Final, Literal

ProgressCallback = Callable[[str, int, int], None]
"""Told (stage, done, total) as work goes on."""


def silent(_stage: str, _done: int, _total: int) -> None:
    """Progress that nobody asked for."""


Precision = Literal["fp32", "fp16", "int8"]
Ranges = Literal["minmax", "entropy", "percentile"]
"""How the range of an activation in int8 is taken from what it is on calibration images."""

Activation = Literal["Relu"]
"""An ONNX operator of one input and no attributes that runtimes fuse into the Conv before it."""

FLOAT_BYTES = 4
"""Of one float32."""

_SHOWN_DIGITS: Final = 4
_ALL_DIGITS: Final = 17
"""In which no two floats are alike."""

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]
"""Zero padding in ONNX order: top, left, bottom, right."""


# --- survey ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConvGeometry:
    """How a 2-D convolution walks over its input, in ONNX Conv's terms."""

    kernel: Pair
    stride: Pair = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    group: int = 1

    def output_size(self, input_size: Pair) -> Pair:
        """Output (height, width) for an input (height, width), as ONNX Conv defines it."""
        height, width = (
            (input_size[axis] + self.pads[axis] + self.pads[axis + 2] - self._extent(axis)) // self.stride[axis] + 1
            for axis in (0, 1)
        )
        return height, width

    def _extent(self, axis: int) -> int:
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1


@dataclass(frozen=True, slots=True)
class Site:
    """One convolution that can be factorized: W of ``weight_shape`` at one place of the network.

    ``batch`` is the size of the first axis that the conv sees; ``macs`` are those of the dense conv at the surveyed
    input, the batch included; ``share`` is their part of the whole network's. ``has_norm``: a BatchNorm alone reads
    the output; ``activation``: what alone reads the output, or the norm's, if runtimes fuse it into a Conv.
    """

    name: str
    batch: int
    in_channels: int
    out_channels: int
    geometry: ConvGeometry
    input_size: Pair
    output_size: Pair
    has_bias: bool
    params: int
    macs: int
    share: float
    has_norm: bool = False
    activation: Activation | None = None

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """[F, C / group, kh, kw]."""
        return self.out_channels, self.in_channels // self.geometry.group, *self.geometry.kernel


@dataclass(frozen=True, slots=True)
class Skipped:
    """A convolution that stays as it is, and why."""

    site: str
    reason: str


@dataclass(frozen=True, slots=True)
class InputSpec:
    """The model's input: its ONNX name and static shape [N, C, H, W]; float32."""

    name: str
    shape: tuple[int, ...]


BATCH_SYMBOL = "N"
"""The name of a dynamic batch in the shapes of an ONNX model."""


@dataclass(frozen=True, slots=True)
class BatchRange:
    """How many samples at once a model with a dynamic batch takes: the least, the usual number, the most."""

    min: int
    opt: int
    max: int

    @classmethod
    def parse(cls, text: str) -> "BatchRange":
        """Of ``MIN:OPT:MAX``; ValueError if it is none, or is not in order."""
        parts = text.split(":")
        if len(parts) != 3 or not all(part.isdecimal() and int(part) > 0 for part in parts):  # noqa: PLR2004
            raise ValueError("expected MIN:OPT:MAX, three numbers of samples of at least 1, such as 1:4:8")
        least, usual, most = map(int, parts)
        if not least <= usual <= most:
            raise ValueError("expected MIN <= OPT <= MAX, such as 1:4:8")
        return cls(least, usual, most)

    @classmethod
    def static(cls, batch: int) -> "BatchRange":
        """Of a model that takes ``batch`` samples and no other number."""
        return cls(batch, batch, batch)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Each of the three once, in order."""
        return tuple(sorted({self.min, self.opt, self.max}))


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything learnt by looking at the model. ``params`` and ``macs`` are the whole network's."""

    sites: tuple[Site, ...]
    skipped: tuple[Skipped, ...]
    params: int
    macs: int


# --- plan and factorize ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FactorShape:
    """One factor of a Kronecker network: its rank axes (``"ab"``), then f, c, h, w (docs/operator.md)."""

    rank_axes: str
    f: int
    c: int
    h: int
    w: int

    @property
    def size(self) -> tuple[int, int, int, int]:
        return self.f, self.c, self.h, self.w


@dataclass(frozen=True, slots=True)
class Structure:
    """The shape of a Kronecker network: what a weight is factorized into, without the values.

    ``ranks[i]`` is the size of the i-th rank axis in alphabetical order. The first factor is the slowest index
    of f, c, i and j alike.
    """

    method: str
    ranks: tuple[int, ...]
    factors: tuple[FactorShape, ...]

    @property
    def rank_sizes(self) -> dict[str, int]:
        """Size of each rank axis by its letter."""
        letters = sorted(set("".join(factor.rank_axes for factor in self.factors)))
        return dict(zip(letters, self.ranks, strict=True))

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """[F, C, kh, kw] of the dense weight that it stands for; of a grouped conv's, C is the channels of a group."""
        f, c, h, w = (math.prod(sizes) for sizes in zip(*(factor.size for factor in self.factors), strict=True))
        return f, c, h, w

    def factor_shape(self, index: int) -> tuple[int, ...]:
        """Full shape of factor ``index``: rank axes first, then f, c, h, w."""
        factor = self.factors[index]
        return (*(self.rank_sizes[axis] for axis in factor.rank_axes), *factor.size)

    @property
    def params(self) -> int:
        """Elements of all factors, each stored once."""
        return sum(math.prod(self.factor_shape(index)) for index in range(len(self.factors)))

    def __str__(self) -> str:
        """``16x16x3x1 * 4x4x1x3``: each factor's f x c x h x w, the slowest first."""
        return " * ".join("x".join(map(str, factor.size)) for factor in self.factors)


@dataclass(frozen=True, slots=True)
class SitePlan:
    """What becomes of one site: ``structure`` is None where it stays dense; ``lowering`` names a form.

    ``params`` and ``macs`` are those of the site as planned; ``rel_error`` = ||W - W^|| / ||W||, None where the plan
    was made without a look at the weight. ``float_steps``: its Convs, counted from 0, that int8 builds leave in float.
    ``dense_seconds`` and ``seconds``: what the layer took alone, dense and as planned, None where it was not timed;
    ``reason``: why it stays dense, where the planner knows. These three are no part of what is compared.
    """

    site: str
    structure: Structure | None
    lowering: str
    params: int
    macs: int
    rel_error: float | None
    float_steps: tuple[int, ...] = ()
    dense_seconds: float | None = field(default=None, compare=False)
    seconds: float | None = field(default=None, compare=False)
    reason: str | None = field(default=None, compare=False)


Basis = Literal["roofline", "measured", "mixed", "given"]
"""What the choice of lowerings rests on; mixed: on measurement where there is some; given: on the user."""


@dataclass(frozen=True, slots=True)
class ParetoPoint:
    """What one choice for all sites is planned to cost, as parts of the dense network, and to lose.

    ``latency`` is that of the sites alone, the sum of their seconds; None where no time is known. ``error`` is the
    cubic mean of ||W - W^|| / ||W|| over the sites, dense ones included: the planner makes it least. ``basis`` says
    whether all the seconds were measured, some, or none. ``chosen``: this is the plan.
    """

    latency: float | None
    macs: float
    params: float
    error: float
    basis: Literal["measured", "mixed", "roofline"]
    chosen: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """One choice a site, for one target.

    ``notes`` say how it was made, for the reader of the report; ``pareto`` has the other choices that there were. Both
    are no part of what is compared: a plan is what becomes of the sites.
    """

    target: str
    sites: tuple[SitePlan, ...]
    basis: Basis
    notes: tuple[str, ...] = field(default=(), compare=False)
    pareto: tuple[ParetoPoint, ...] = field(default=(), compare=False)

    @property
    def structures(self) -> dict[str, Structure]:
        """The structure of each factorized site, in order of execution."""
        return {choice.site: choice.structure for choice in self.sites if choice.structure is not None}

    @property
    def forms(self) -> dict[str, str]:
        """The lowering of each factorized site."""
        return {choice.site: choice.lowering for choice in self.sites if choice.structure is not None}

    @property
    def float_steps(self) -> dict[str, tuple[int, ...]]:
        """Of each site that has any the Convs that an int8 build leaves in float."""
        return {choice.site: choice.float_steps for choice in self.sites if choice.float_steps}


# --- verify, measure, ship: these are the objects of report.json, key by key ----------------------------------


@dataclass(frozen=True, slots=True)
class Check:
    """Outputs of one stage against another's, over the whole golden batch.

    ``rel_l2`` = ||y - y_ref|| / ||y_ref||. An approximation (stage ``factorized``) has no tolerance.
    """

    stage: Literal["factorized", "portable", "lowered", "simplified", "quantized", "half", "compiled"]
    against: str
    max_abs: float | None
    rel_l2: float | None
    tolerance: float | None
    passed: bool | None


@dataclass(frozen=True, slots=True)
class LatencyStats:
    """Milliseconds over ``n`` inferences, none dropped."""

    n: int
    min: float
    mean: float
    std: float
    p50: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Speedup:
    """Median paired ratio dense/compressed with its bootstrap 95 % interval."""

    median: float
    ci95: tuple[float, float]
    verdict: Literal["faster", "slower", "within noise"]


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """What was measured of one network. None: not measured, with the reason in ``TargetReport.unmeasured``.

    ``weight_bytes`` and ``activation_bytes`` are counted from the graph (``lower.memory``), not measured.
    """

    params: int
    macs: int
    bytes: int
    latency_ms: LatencyStats | None = None
    peak_memory_bytes: int | None = None
    build_peak_memory_bytes: int | None = None
    accuracy: float | None = None
    weight_bytes: int = 0
    activation_bytes: int = 0


@dataclass(frozen=True, slots=True)
class BatchFigures:
    """Median latencies, and dense/compressed, at one number of samples; None: not measured."""

    batch: int
    dense_latency_ms: float | None
    compressed_latency_ms: float | None
    speedup: float | None


@dataclass(frozen=True, slots=True)
class GoalResult:
    """A goal as the user wrote it, the value reached, and whether that meets it (None: not measurable)."""

    expr: str
    value: float | None
    met: bool | None

    @property
    def reached(self) -> str:
        """``value`` in four digits, or in as many as tell a miss from the limit; empty where there is none."""
        if self.value is None:
            return ""
        limit = float(self.expr.partition("<=")[2].strip().rstrip(ascii_letters))
        digits = max(_SHOWN_DIGITS, len(f"{abs(self.value):.0f}"))
        while self.met is False and digits < _ALL_DIGITS and f"{self.value:.{digits}g}" == f"{limit:.{digits}g}":
            digits += 1
        return f"{self.value:,.{digits}g}"


@dataclass(frozen=True, slots=True)
class LayerFigures:
    """One row of the layer table.

    ``dense_us`` and ``us``: microseconds of the layer alone, with its bias, BatchNorm and activation, as they were
    timed for the plan (docs/measuring.md); of TensorRT those of its layers in a profile of the whole engine. None where
    there is no such time. ``dense_params`` and ``dense_macs``: what the layer
    needs when dense; None in reports of earlier versions.
    ``float_steps``: the layer's Convs, counted from 0, that an int8 build left in float.
    ``reason``: why it stays dense, None of a factorized one and where nobody knows; it is no part of what is compared.
    """

    site: str
    method: str
    structure: str
    ranks: tuple[int, ...]
    lowering: str
    params: int
    macs: int
    rel_error: float
    dense_us: float | None = None
    us: float | None = None
    float_steps: tuple[int, ...] = ()
    dense_params: int | None = None
    dense_macs: int | None = None
    reason: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Training:
    """How the factorized network was trained before it was exported.

    ``error_before`` and ``error_after`` are ||y - y_dense|| / ||y_dense|| over the golden batch. ``images``,
    ``labels``, ``epochs`` (as many as were trained), ``kept_epoch`` (what ships is the network after it; 0: the fitted
    factors, where no epoch scored more), ``recipe`` and the losses (on the first batches) are known of a distillation
    alone: of the user's own loop they are None.
    """

    kind: Literal["distillation", "own loop"]
    images: int | None = None
    labels: bool | None = None
    epochs: int | None = None
    kept_epoch: int | None = None
    recipe: dict[str, Any] | None = None
    loss_before: float | None = None
    loss_after: float | None = None
    error_before: float | None = None
    error_after: float | None = None


@dataclass(frozen=True, slots=True)
class TargetReport:
    """All that is reported for one target."""

    precision: str
    environment: dict[str, Any]
    protocol: dict[str, Any]
    skipped: tuple[Skipped, ...]
    pareto: tuple[ParetoPoint, ...]
    unmeasured: dict[str, str]
    goals: tuple[GoalResult, ...]
    dense: ModelFigures
    compressed: ModelFigures
    speedup: Speedup | None
    verification: tuple[Check, ...]
    layers: tuple[LayerFigures, ...]
    notes: tuple[str, ...] = ()
    dynamic_batch: tuple[BatchFigures, ...] = ()
    recover: Training | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """report.json, schema 1."""

    model: str
    targets: dict[str, TargetReport] = field(default_factory=dict)
    schema: Literal[1] = 1
