"""Timing a bundle again: ``kronexport bench``."""

import tempfile
from pathlib import Path

from kronexport.backends import BACKENDS
from kronexport.backends.profile import load_target
from kronexport.errors import KronexportError, UserInputError
from kronexport.measure.latency import BenchResult, bench_models
from kronexport.measure.setting import Setting, Timing
from kronexport.records import InputSpec
from kronexport.ship.bundle import verify_bundle
from kronexport.ship.output import OutputFolder


def bench_bundle(bundle: Path, *, against: Path | None, threads: int | None, timing: Timing) -> BenchResult:
    """Time the engine of an intact bundle, interleaved with a dense model compiled the same way.

    Args:
        bundle: OUT/<target>, or a copy of it.
        against: an ONNX model with the same input; None: the dense network that the build measured it against, if the
            bundle still lies in its output.
        threads: of one inference; None: those of the manifest.
        timing: for how long.

    Raises:
        BundleError, MissingRuntimeError: the bundle is damaged, or does not fit this machine.
        UserInputError: there is no model to compare with.
    """
    manifest = verify_bundle(bundle)
    dense = against or OutputFolder(bundle.resolve().parent).target_dense_onnx(manifest["target"])
    if not dense.is_file():
        raise UserInputError(f"{dense}: no dense model to compare with; name one with --against")
    profile = load_target(manifest["target"])
    spec = InputSpec(manifest["input"]["name"], tuple(manifest["input"]["shape"]))
    setting = Setting(manifest["backend"], threads or manifest["threads"], spec, manifest["runtime_options"])
    with tempfile.TemporaryDirectory(prefix="kronexport-bench-") as work:
        try:
            compiled = BACKENDS[profile.backend].compile(
                dense, Path(work), profile, allow_fallback=manifest.get("allow_fallback", False)
            )
        except KronexportError as error:
            raise UserInputError(f"--against {dense}: {error}") from error
        if compiled.artifact is None:
            raise UserInputError(f"{bundle}: {compiled.reason}; run build_engine.sh on the board")
        return bench_models(
            {"dense": compiled.artifact, "bundle": bundle / manifest["artifact"]},
            setting,
            timing,
        )
