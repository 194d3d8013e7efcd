"""Timing a bundle again: ``kronexport bench``."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from kronexport.backends import BACKENDS
from kronexport.backends.fit import check_fits
from kronexport.backends.profile import TargetProfile, load_target
from kronexport.errors import KronexportError, UserInputError
from kronexport.machines.base import Machine
from kronexport.machines.here import HERE
from kronexport.measure.latency import BenchResult, bench_models
from kronexport.measure.setting import Setting, Timing
from kronexport.records import InputSpec, Precision
from kronexport.ship.bundle import read_bundle, verify_bundle
from kronexport.ship.output import OutputFolder

Elsewhere = Callable[[TargetProfile, int, Precision], Machine]
"""The machine that has boards of a target, for so many threads and this precision."""


def bench_bundle(
    bundle: Path, *, against: Path | None, threads: int | None, timing: Timing, elsewhere: Elsewhere | None = None
) -> BenchResult:
    """Time the engine of an intact bundle, interleaved with a dense model compiled the same way.

    Args:
        bundle: OUT/<target>, or a copy of it.
        against: an ONNX model with the same input; None: the dense network that the build measured it against, if the
            bundle still lies in its output, under its name.
        threads: of one inference; None: those of the manifest.
        timing: for how long.
        elsewhere: where it is timed; None: here.

    Raises:
        BundleError, MissingRuntimeError: the bundle is damaged, or does not fit the machine.
        UserInputError: there is no such folder, no model to compare with, or the machine is another kind.
    """
    manifest = verify_bundle(bundle) if elsewhere is None else read_bundle(bundle)
    found = bundle.resolve()  # by its own name: a copy under another may be of an earlier build than what lies there
    dense = against or OutputFolder(found.parent).target_dense_onnx(found.name)
    if not dense.is_file():
        raise UserInputError(f"{dense}: no dense model to compare with; name one with --against")
    profile = load_target(manifest["target"])
    spec = InputSpec(manifest["input"]["name"], tuple(manifest["input"]["shape"]))
    threads = threads or manifest["threads"]
    machine = HERE if elsewhere is None else elsewhere(profile, threads, manifest["precision"])
    if machine is not HERE:
        check_fits(profile, machine.place, machine.environment(profile.backend))
    setting = Setting(manifest["backend"], threads, spec, manifest["runtime_options"], machine=machine)
    with tempfile.TemporaryDirectory(prefix="kronexport-bench-") as work:
        try:
            compiled = BACKENDS[profile.backend].compile(
                dense, Path(work), profile, allow_fallback=manifest.get("allow_fallback", False)
            )
        except KronexportError as error:
            raise UserInputError(f"{'' if against is None else '--against '}{dense}: {error}") from error
        if compiled.artifact is None:
            raise UserInputError(f"{bundle}: {compiled.reason}; run build_engine.sh on the board")
        return bench_models(
            {"dense": compiled.artifact, "bundle": bundle / manifest["artifact"]},
            setting,
            timing,
        )
