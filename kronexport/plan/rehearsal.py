"""Rehearsals: plans timed as whole networks beside dense, before any factor is fitted.

How long a network takes does not depend on the values of its weights, so the factors are seeded noise. Layers that take
a time each when they are timed alone take another in a network, where caches are warm or cold and layouts are
passed on; what a goal asks for is the network's.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir
from torch import nn

from kronexport.cache import content_key
from kronexport.export.onnx_export import export_onnx, save_model
from kronexport.export.replace import with_networks
from kronexport.factorize.network import KroneckerNetwork
from kronexport.lower.lowering import lower
from kronexport.measure.latency import BenchResult, bench_models
from kronexport.measure.memory import measure_memory
from kronexport.measure.setting import Setting, Timing
from kronexport.precision.half import half
from kronexport.precision.quantize import Scheme, quantized
from kronexport.precision.steps import float_nodes
from kronexport.records import ModelFigures, Plan, Precision, ProgressCallback, Speedup, Structure

REHEARSAL: Final = Timing(seconds=3.0, rounds=15, warmup_seconds=0.5)
"""How long a network is timed: less than the finished one."""

SIDE_BY_SIDE: Final = 6
"""Networks that are loaded at once beside the planned one, if they are small."""
LOADED_BYTES: Final = 512 * 1024**2
"""Of their files: a runtime may take twice that."""

_DENSE, _PLANNED = "dense", "planned"


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """Figures of the dense network and of the planned one; ``params`` and ``macs`` are 0, for they need no clock."""

    dense: ModelFigures
    planned: ModelFigures
    speedup: Speedup


@dataclass(slots=True)
class Rehearsal:
    """Times plans of one model on one target that is this machine.

    Attributes:
        module: the network with all its layers dense.
        opset: the target's.
        setting: where it runs, and on what input.
        timing: how long each network is timed.
        progress: told ("rehearse", done, total).
        precision: of the networks.
    """

    module: nn.Module
    opset: int
    setting: Setting
    timing: Timing
    progress: ProgressCallback
    precision: Precision = "fp32"
    _exported: dict[tuple[tuple[str, Structure], ...], ir.Model] = field(default_factory=dict, init=False)
    _memory: dict[Plan | None, int | None] = field(default_factory=dict, init=False)

    def against_dense(self, plan: Plan, *, memory: bool, dense: Plan | None = None) -> Rehearsed:
        """The planned network against the dense one, interleaved; its peak memory too if that is asked for.

        ``dense`` says what of the dense network stays in float in int8; None: nothing.

        Raises:
            KronexportError: as ``bench_models``.
        """
        with tempfile.TemporaryDirectory(prefix="kronexport-rehearsal-") as folder:
            paths = {_DENSE: self.written(dense, Path(folder)), _PLANNED: self.written(plan, Path(folder))}
            timed = self._timed(paths)
            peaks: dict[str, int | None] = {_DENSE: None, _PLANNED: None}
            if memory:
                if dense not in self._memory:
                    self._memory[dense] = measure_memory(paths[_DENSE], self.setting).peak_memory_bytes
                peaks = {
                    _DENSE: self._memory[dense],
                    _PLANNED: measure_memory(paths[_PLANNED], self.setting).peak_memory_bytes,
                }
            sides = {
                name: ModelFigures(0, 0, path.stat().st_size, timed.latency_ms[name], peaks[name])
                for name, path in paths.items()
            }
        return Rehearsed(sides[_DENSE], sides[_PLANNED], timed.speedups[_PLANNED])

    def against(self, plan: Plan, others: Sequence[Plan]) -> list[Speedup]:
        """How much faster than ``plan`` each of the others is, all interleaved with it.

        Raises:
            KronexportError: as ``bench_models``.
        """
        found: list[Speedup] = []
        while len(found) < len(others):
            self.progress("rehearse", len(found), len(others))
            with tempfile.TemporaryDirectory(prefix="kronexport-rehearsal-") as folder:
                first = self.written(plan, Path(folder))
                most = max(1, min(SIDE_BY_SIDE, LOADED_BYTES // first.stat().st_size))
                paths = [first, *(self.written(one, Path(folder)) for one in others[len(found) :][:most])]
                speedups = self._timed({path.name: path for path in paths}).speedups
            found += [speedups[path.name] for path in paths[1:]]
        return found

    def network_key(self) -> bytes:
        """The hash of the dense network, its weights and all that stands between its layers."""
        return content_key(ir.to_proto(self._portable({})).SerializeToString(deterministic=True)).encode()

    def _timed(self, paths: Mapping[str, Path]) -> BenchResult:
        return bench_models(paths, self.setting, self.timing)

    def written(self, plan: Plan | None, folder: Path) -> Path:
        """The lowered network as a new file in ``folder``; None: the dense one."""
        path = folder / f"{len(list(folder.iterdir()))}.onnx"
        structures, forms = ({}, {}) if plan is None else (plan.structures, plan.forms)
        lowered = lower(self._portable(structures), forms, self.opset)
        if self.precision == "int8":
            lowered = self._quantized(lowered, {} if plan is None else plan.float_steps)
        if self.precision == "fp16":
            lowered = half(lowered)
        save_model(lowered, path)
        return path

    def _quantized(self, lowered: ir.Model, float_steps: Mapping[str, Sequence[int]]) -> ir.Model:
        """With the ranges of seeded noise, for time does not depend on them."""
        noise = np.random.default_rng(0).standard_normal(self.setting.input.shape, np.float32)
        proto = ir.to_proto(lowered)
        feeds = [{self.setting.input.name: noise}]
        return ir.from_proto(quantized(proto, feeds, Scheme(), float_nodes(proto.graph, float_steps)))

    def _portable(self, structures: Mapping[str, Structure]) -> ir.Model:
        """The network with these layers as KroneckerConv nodes; those of the dense one and of the last are kept."""
        key = tuple(structures.items())
        if key not in self._exported:
            networks = {site: noise_network(structure) for site, structure in structures.items()}
            exported = export_onnx(with_networks(self.module, networks).eval(), self.setting.input)
            self._exported = {kept: model for kept, model in self._exported.items() if not kept} | {key: exported}
        return self._exported[key]


def noise_network(structure: Structure) -> KroneckerNetwork:
    """Seeded normal factors of which ``to_dense()`` [F, C, kh, kw] keeps the variance of what passes through."""
    generator = np.random.default_rng(0)
    _, channels, height, width = structure.weight_shape
    terms = float(np.prod(structure.ranks)) * channels * height * width
    scale = terms ** (-0.5 / len(structure.factors))
    shapes = map(structure.factor_shape, range(len(structure.factors)))
    return KroneckerNetwork(
        structure, tuple((scale * generator.standard_normal(shape)).astype(np.float32) for shape in shapes)
    )
