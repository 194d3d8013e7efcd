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
from kronexport.backends.profile import load_target
from kronexport.backends.tensorrt import build_flags, build_script
from kronexport.errors import KronexportError
from tests.backends.models import save_tiny_model

OPTIONS = json.loads((Path(__file__).parent / "data" / "trtexec_options.json").read_text(encoding="utf-8"))["releases"]
BASH = shutil.which("bash")
needs_bash = pytest.mark.skipif(BASH is None, reason="the script is bash, which this machine lacks")

TRTEXEC = """#!/bin/sh
for argument in "$@"; do
    case "$argument" in --saveEngine=*) printf engine >"${argument#--saveEngine=}" ;; esac
done
printf '%s\\n' "$@"
exit "${TRTEXEC_EXIT:-0}"
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


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("8.2.1", ("--workspace=512", "--buildOnly")),
        ("8.5.2", ("--memPoolSize=workspace:512", "--buildOnly")),
        ("8.6.2", ("--memPoolSize=workspace:512", "--skipInference")),
        ("10.3", ("--memPoolSize=workspace:512", "--skipInference")),
        ("11.0", ("--memPoolSize=workspace:512", "--skipInference")),
    ],
)
def test_build_flags_follow_the_release(version: str, expected: tuple[str, str]) -> None:
    """Memory and build-only were renamed on the way; fp32 is fp32 in all of them."""
    flags = build_flags(version, 512)
    assert (flags[0], flags[-1]) == expected
    assert "--noTF32" in flags


@pytest.mark.parametrize("release", OPTIONS)
def test_every_release_knows_the_build_flags_it_is_given(release: str) -> None:
    assert {flag.removeprefix("--").split("=")[0] for flag in build_flags(release, 1024)} <= set(OPTIONS[release])


@pytest.mark.parametrize(("name", "release"), [("jetson", "8.6"), ("jetson@jp6.2", "10.3")])
def test_every_option_in_the_script_is_one_of_the_release(name: str, release: str) -> None:
    """Those written out in the script too."""
    text = build_script(load_target(name))
    trtexec_lines = [
        line for line in text.splitlines() if re.search(r"_flags=|trtexec\" --|--exportLayer|loadEngine", line)
    ]
    options = set(re.findall(r"--(\w+)[= )]", " ".join(trtexec_lines) + " "))
    assert {"onnx", "saveEngine", "timingCacheFile", "exportLayerInfo", "loadEngine", "exportTimes"} <= options
    assert options <= set(OPTIONS[release])


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
    assert not re.search(r"@\w+@", text)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_has_no_complaint(tmp_path: Path) -> None:
    script = tmp_path / "build_engine.sh"
    script.write_text(build_script(load_target("jetson")), encoding="utf-8")
    subprocess.run(["shellcheck", str(script)], check=True)


# --- the script at work ---------------------------------------------------------------------------------------


class Bundle:
    """A bundle on a machine whose device tree, dpkg-query and trtexec are stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a bundle"
        self.bin = folder / "bin"
        self.home = folder / "home"
        self.compatible = folder / "compatible"
        for made in (self.folder, self.bin, self.home):
            made.mkdir()
        self.compatible.write_bytes(b"nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0")
        self.tool("trtexec", TRTEXEC)
        self.tool("dpkg-query", DPKG)
        model = save_tiny_model(self.folder / "model.onnx")
        digest = hashlib.sha256(model.read_bytes()).hexdigest()
        (self.folder / "SHA256SUMS").write_text(f"{'0' * 64}  run.py\n{digest}  model.onnx\n", encoding="utf-8")
        text = build_script(load_target("jetson")).replace("/proc/device-tree/compatible", str(self.compatible))
        (self.folder / "build_engine.sh").write_text(text, encoding="utf-8")
        self.before = self.files()

    def tool(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text, encoding="utf-8")
        (self.bin / name).chmod(0o755)

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def run(self, installed: str = "8.6.2.3-1+cuda12.2", trtexec_exit: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(self.home),
            "INSTALLED": installed,
            "TRTEXEC_EXIT": str(trtexec_exit),
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
    assert "--onnx=model.onnx" in done.stdout
    assert "--skipInference" in done.stdout
    assert "model.engine" in done.stdout.splitlines()[-1]
    assert "--noDataTransfers" in done.stdout.splitlines()[-1]
    assert (bundle.home / ".cache/kronexport/jetson-orin-nano/build.log").is_file()


@needs_bash
def test_a_build_that_fails_leaves_no_engine(bundle: Bundle) -> None:
    """Although trtexec had begun to write one."""
    done = bundle.run(trtexec_exit=5)
    assert done.returncode == 1
    assert "trtexec could not build the engine" in done.stderr
    assert bundle.files() == bundle.before


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
