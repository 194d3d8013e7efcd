"""build_engine.sh: what it says, and what it does where board, TensorRT and trtexec are stood in for.

The stand-ins show that the script checks, builds aside and renames; that an engine comes of it only a board can show.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kronexport.backends import BACKENDS
from kronexport.backends.build_script import build_script
from kronexport.backends.profile import Route, load_target
from kronexport.backends.trtexec import dialect_of
from kronexport.errors import KronexportError
from tests.backends.double import save_double
from tests.backends.models import quantized_tiny_model, save_tiny_model

OPTIONS = json.loads((Path(__file__).parent / "data" / "trtexec_options.json").read_text(encoding="utf-8"))["releases"]
BASH = shutil.which("bash")
JETPACKS = (
    "jetson-nano",
    "jetson@jp5.1",
    "jetson",
    "jetson@jp6.2",
    "jetson@jp7.2",
    "jetson@jp7.2.2",
    "jetson-thor@jp7.0",
)
needs_bash = pytest.mark.skipif(BASH is None, reason="the script is bash, which this machine lacks")

FAILING = """#!/bin/sh
for argument in "$@"; do
    case "$argument" in --saveEngine=*) printf engine >"${argument#--saveEngine=}" ;; esac
done
exit 5
"""
DPKG = """#!/bin/sh
case "$*" in *"libnvinfer${INSTALLED%%.*}") printf %s "$INSTALLED" ;; *) exit 1 ;; esac
"""


def test_a_model_above_the_boards_opset_is_refused_here(tmp_path: Path) -> None:
    """The board's parser would refuse it much later."""
    model = save_tiny_model(tmp_path / "model.onnx", opset=18)
    with pytest.raises(KronexportError, match=r"opset 18, IR 8; jetson-orin-nano reads at most opset 17, IR 8"):
        BACKENDS["tensorrt"].compile(model, tmp_path / "compiled", load_target("jetson"))
    assert not (tmp_path / "compiled").exists()


def test_a_target_without_a_board_has_no_script() -> None:
    with pytest.raises(KronexportError, match="x86-onnxruntime: backend onnxruntime has no board"):
        build_script(load_target("cpu"))


@pytest.mark.parametrize("name", JETPACKS)
@pytest.mark.parametrize("route", ["float-onnx", "qdq-symmetric", "fp16-onnx"])
def test_every_option_in_the_script_is_one_of_the_release(name: str, route: Route) -> None:
    """Those written out in the template too: whatever stands in a line that calls trtexec or is part of a command."""
    profile = load_target(name)
    text = build_script(profile, route)
    words = set(re.findall(r'"--(\w+)[^"]*"', text))
    assert {"onnx", "saveEngine", "timingCacheFile", "exportLayerInfo", "loadEngine", "exportTimes"} <= words
    assert words <= set(OPTIONS[dialect_of(profile.runtime.version).release])


@pytest.mark.parametrize("name", JETPACKS)
def test_a_range_of_shapes_is_one_of_the_release(name: str) -> None:
    """The builder is given all three, the command that times it the usual one."""
    shapes = tuple({"x": (size, 3, 8, 8)} for size in (1, 2, 5))
    text = build_script(load_target(name), shapes=(shapes[0], shapes[1], shapes[2]))
    assert all(f'"--{kind}Shapes=x:{size}x3x8x8"' in text for kind, size in (("min", 1), ("opt", 2), ("max", 5)))
    assert text.count('"--shapes=x:2x3x8x8"') == 1
    known = set(OPTIONS[dialect_of(load_target(name).runtime.version).release])
    assert {"minShapes", "optShapes", "maxShapes", "shapes"} <= known
    assert "hapes" not in build_script(load_target(name))


@needs_bash
@pytest.mark.parametrize("name", ["jetson", "jetson@jp6.2"])
def test_the_script_is_executable_bash_for_its_target(name: str, tmp_path: Path) -> None:
    """It parses, stops at the first error, and holds no placeholder that was left."""
    profile = load_target(name)
    model = save_tiny_model(tmp_path / "model.onnx")
    script = BACKENDS["tensorrt"].compile(model, tmp_path / "compiled", profile).files[0]
    text = script.read_text(encoding="utf-8")
    subprocess.run([str(BASH), "-n", str(script)], check=True)
    assert script.name == "build_engine.sh"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in text
    assert f"tensorrt={profile.runtime.version}\n" in text
    assert profile.board is not None
    assert f"model-sm{profile.board.sm.replace('.', '')}-trt{profile.runtime.version}-fp32.engine" in text
    assert not re.search(r"@\w+@", text)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_has_no_complaint(tmp_path: Path) -> None:
    script = tmp_path / "build_engine.sh"
    for name in JETPACKS:
        script.write_text(build_script(load_target(name)), encoding="utf-8")
        subprocess.run(["shellcheck", str(script)], check=True)


# --- the script at work ---------------------------------------------------------------------------------------


class Bundle:
    """A bundle on a machine whose device tree, dpkg-query and trtexec are stand-ins."""

    def __init__(
        self,
        folder: Path,
        target: str = "jetson",
        route: Route = "float-onnx",
        fallback: str = "",
        *,
        allow: bool = False,
    ) -> None:
        self.folder = folder / "a bundle"
        self.bin = folder / "bin"
        self.home = folder / "home"
        self.compatible = folder / "compatible"
        for made in (self.folder, self.bin, self.home):
            made.mkdir()
        self.compatible.write_bytes(b"nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0")
        self.release = dialect_of(load_target(target).runtime.version).release
        save_double(self.bin / "trtexec", self.release, fallback)
        self.tool("dpkg-query", DPKG)
        model = save_tiny_model(self.folder / "model.onnx")
        if route == "qdq-symmetric":
            quantized_tiny_model(model)
        digest = hashlib.sha256(model.read_bytes()).hexdigest()
        (self.folder / "SHA256SUMS").write_text(f"{'0' * 64}  run.py\n{digest}  model.onnx\n", encoding="utf-8")
        text = build_script(load_target(target), route, allow_fallback=allow)
        text = text.replace("/proc/device-tree/compatible", str(self.compatible))
        (self.folder / "build_engine.sh").write_text(text, encoding="utf-8")
        self.before = self.files()

    def tool(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text, encoding="utf-8")
        (self.bin / name).chmod(0o755)

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def run(self, installed: str = "8.6.2.3-1+cuda12.2") -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(self.home),
            "INSTALLED": installed,
        }
        command = [str(BASH), str(self.folder / "build_engine.sh")]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd="/")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path)


@needs_bash
def test_the_engine_is_built_in_the_bundle_and_nothing_else_is_left(bundle: Bundle) -> None:
    """From any folder, in a path with a space; logs and the timing cache lie outside, where no checksum covers them."""
    done = bundle.run()
    assert done.returncode == 0, done.stderr
    assert bundle.files() == bundle.before | {"model.engine"}
    assert "[double, not TensorRT]" in done.stdout
    assert "model.engine" in done.stdout.splitlines()[-1]
    assert "--noDataTransfers" in done.stdout.splitlines()[-1]
    cache = bundle.home / ".cache/kronexport/jetson-orin-nano"
    name = "model-sm87-trt8.6.2-fp32"
    assert {path.name for path in cache.iterdir()} == {
        "timing-8.6.2.cache",
        f"{name}.engine",
        f"{name}.layers.json",
        f"{name}.log",
    }
    assert (cache / f"{name}.engine").read_bytes() == (bundle.folder / "model.engine").read_bytes()


@needs_bash
@pytest.mark.parametrize(
    ("target", "installed"),
    [
        ("jetson-xavier-nx@jp4.6", "8.2.1-1+cuda10.2"),
        ("jetson@jp5.1", "8.5.2-1+cuda11.4"),
        ("jetson@jp6.2", "10.3.0.30-1+cuda12.5"),
        ("jetson@jp7.2", "10.16.1-1+cuda13.2"),
        ("jetson@jp7.2.2", "11.4.1-1+cuda13.2"),
    ],
)
def test_each_release_builds_int8_by_its_own_options(target: str, installed: str, tmp_path: Path) -> None:
    """The double refuses what the release does not know, and Q/DQ where it was not told of int8."""
    bundle = Bundle(tmp_path, target, "qdq-symmetric")
    bundle.compatible.write_bytes(b"nvidia,tegra194\0nvidia,tegra234\0")
    done = bundle.run(installed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert bundle.files() == bundle.before | {"model.engine"}


@needs_bash
def test_an_engine_without_a_layer_in_the_precision_is_refused(tmp_path: Path) -> None:
    """Exit code 4: int8 was asked for, and FP32 was built, silently."""
    bundle = Bundle(tmp_path, "jetson", "qdq-symmetric", fallback="conv")
    done = bundle.run()
    assert done.returncode == 4
    assert "int8 was asked for, and no layer of the engine reads or writes it" in done.stderr
    assert "--allow-fallback" in done.stderr
    assert bundle.files() == bundle.before


@needs_bash
def test_an_engine_that_may_fall_back_is_warned_of(tmp_path: Path) -> None:
    """It is there, and stderr says what it is not."""
    bundle = Bundle(tmp_path, "jetson", "qdq-symmetric", fallback="conv", allow=True)
    done = bundle.run()
    assert done.returncode == 0
    assert "warning: int8 was asked for, and no layer of the engine reads or writes it" in done.stderr
    assert bundle.files() == bundle.before | {"model.engine"}


@needs_bash
def test_a_build_that_fails_leaves_no_engine(bundle: Bundle) -> None:
    """Although trtexec had begun to write one."""
    bundle.tool("trtexec", FAILING)
    done = bundle.run()
    assert done.returncode == 1
    assert "trtexec could not build the engine" in done.stderr
    assert bundle.files() == bundle.before
    kept = {path.name for path in (bundle.home / ".cache/kronexport/jetson-orin-nano").iterdir()}
    assert kept == {"model-sm87-trt8.6.2-fp32.log"}


@needs_bash
@pytest.mark.parametrize("installed", ["8.5.2-1+cuda11.4", "8.6.20-1+cuda12", "8.6.1.6-1"])
def test_another_tensorrt_is_refused(bundle: Bundle, installed: str) -> None:
    """Exit code 6, with both releases."""
    done = bundle.run(installed=installed)
    assert done.returncode == 6
    assert f"installed is TensorRT {installed}, expected 8.6.2" in done.stderr
    assert bundle.files() == bundle.before


@needs_bash
def test_a_missing_tensorrt_ends_with_the_command_that_installs_it(bundle: Bundle) -> None:
    """Exit code 3: no package of this major release."""
    done = bundle.run(installed="10.3.0.30-1+cuda12.5")
    assert done.returncode == 3
    assert "libnvinfer8 is not installed; run: sudo apt-get install" in done.stderr


@needs_bash
def test_another_major_release_is_named(bundle: Bundle) -> None:
    """Exit code 6: a JetPack that this bundle isn't for."""
    bundle.tool(
        "dpkg-query", '#!/bin/sh\ncase "$*" in *"[0-9]*") printf "libnvinfer10\\t10.3.0" ;; *) exit 1 ;; esac\n'
    )
    done = bundle.run()
    assert done.returncode == 6
    assert "installed is libnvinfer10 10.3.0, expected TensorRT 8.6.2 (JetPack 6.0)" in done.stderr


@needs_bash
def test_another_board_is_refused(bundle: Bundle) -> None:
    """Exit code 6: a Xavier is no Orin."""
    bundle.compatible.write_bytes(b"nvidia,p2972-0000\0nvidia,tegra194\0")
    done = bundle.run()
    assert done.returncode == 6
    assert "this board is nvidia,p2972-0000 nvidia,tegra194, expected nvidia,tegra234" in done.stderr


@needs_bash
def test_an_engine_that_came_with_the_bundle_is_left_as_it_is(bundle: Bundle) -> None:
    """Exit code 6: another in its place would not be the file that SHA256SUMS lists."""
    (bundle.folder / "model.engine").write_bytes(b"of the build")
    with (bundle.folder / "SHA256SUMS").open("a", encoding="utf-8") as sums:
        sums.write(f"{'0' * 64}  model.engine\n")
    done = bundle.run()
    assert done.returncode == 6
    assert "model.engine was built along with the bundle" in done.stderr
    assert (bundle.folder / "model.engine").read_bytes() == b"of the build"


@needs_bash
def test_a_machine_that_is_no_board_is_refused(bundle: Bundle) -> None:
    bundle.compatible.unlink()
    done = bundle.run()
    assert done.returncode == 6
    assert "no Jetson" in done.stderr


@needs_bash
@pytest.mark.parametrize("damage", ["altered", "unlisted", "no sums"])
def test_a_damaged_bundle_is_refused_before_anything_else(bundle: Bundle, damage: str) -> None:
    """Exit code 6, and trtexec never sees the model."""
    if damage == "altered":
        (bundle.folder / "model.onnx").write_bytes(b"altered")
    elif damage == "unlisted":
        (bundle.folder / "SHA256SUMS").write_text(f"{'0' * 64}  run.py\n", encoding="utf-8")
    else:
        (bundle.folder / "SHA256SUMS").unlink()
    done = bundle.run()
    assert done.returncode == 6
    assert "SHA256SUMS" in done.stderr
    assert "copy the whole bundle again" in done.stderr
    assert "model.engine" not in bundle.files()
