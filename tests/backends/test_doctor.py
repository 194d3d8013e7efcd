"""The doctor tells what is there and how to mend what isn't, and changes nothing."""

import sys
from pathlib import Path

import onnxruntime
import pytest

from kronexport.backends import doctor
from kronexport.backends.profile import list_targets, load_target


def test_a_diagnosis_covers_packages_machine_and_every_target() -> None:
    """In this environment all that is needed is installed."""
    findings = {finding.name: finding for finding in doctor.diagnose()}
    assert {"python", "torch", "onnx", "onnxruntime", "openvino", "onnxsim", "tensorrt (trtexec)"} <= set(findings)
    assert {"cpu", "cores", "governor"} <= set(findings)
    assert {f"target {profile.name}" for profile in list_targets()} <= set(findings)
    assert findings["onnxruntime"].version == onnxruntime.__version__


def test_a_missing_package_comes_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    finding = doctor.package("onnxruntime")
    assert not finding.ok
    assert (finding.version, finding.remedy) == (None, "python -m pip install onnxruntime")


def test_a_package_that_does_not_import_is_broken_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that it needs is absent, say: installing it again may help."""
    (tmp_path / "brokenpackage.py").write_text("raise OSError('libgomp.so.1: no such file')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    finding = doctor.package("brokenpackage")
    assert not finding.ok
    assert finding.version == "broken: libgomp.so.1: no such file"
    assert finding.remedy is not None
    assert "--force-reinstall" in finding.remedy


def test_a_target_without_its_runtime_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    finding = doctor.target(load_target("openvino"))
    assert not finding.ok
    assert finding.remedy is not None
    assert "pip install openvino" in finding.remedy


def test_a_jetson_is_ready_without_trtexec() -> None:
    """Its engine is built on the board."""
    jetson, tool = doctor.target(load_target("jetson")), doctor.trtexec(find=lambda: None)
    assert jetson.ok
    assert jetson.version == "tensorrt 8.6.2"
    assert "build_engine.sh" in str(jetson.means)
    assert (tool.ok, tool.present, tool.version) == (True, False, None)
    assert "no engine is built or timed on this machine" in str(tool.means)


def test_trtexec_that_is_here_says_where(tmp_path: Path) -> None:
    tool = doctor.trtexec(find=lambda: str(tmp_path / "trtexec"))
    assert (tool.ok, tool.present, tool.version, tool.means) == (True, True, str(tmp_path / "trtexec"), None)


@pytest.mark.parametrize("name", ["torch", "onnx", "onnxruntime", "openvino", "onnxsim"])
def test_a_package_that_is_not_there_says_what_that_means(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    finding = doctor.package(name)
    assert not finding.present
    assert finding.means


def test_another_device_is_ready_where_its_runtime_is() -> None:
    """The finding says what cannot be done here."""
    finding = doctor.target(load_target("rpi5"))
    assert finding.version == f"onnxruntime {onnxruntime.__version__}"
    assert finding.means == "verified here, measured on the device alone"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_vnni\nflags\t\t: fpu\n", "AVX-512, AVX-512 VNNI, AVX2"),
        ("flags\t\t: fpu avx2 avx_vnni\n", "AVX-VNNI, AVX2"),
        ("Features\t: fp asimd asimdhp asimddp\n", "NEON, NEON dot product, NEON fp16"),
        ("processor\t: 0\n", "no vector instructions known"),
    ],
)
def test_cpu_features_are_read_from_cpuinfo(tmp_path: Path, text: str, expected: str) -> None:
    """x86 calls them flags, ARM Features."""
    (tmp_path / "cpuinfo").write_text(text, encoding="utf-8")
    version = doctor.cpu(tmp_path / "cpuinfo").version
    assert version is not None
    assert version.split("; ")[1] == expected


def test_an_unreadable_cpuinfo_is_no_failure(tmp_path: Path) -> None:
    finding = doctor.cpu(tmp_path / "absent")
    assert finding.ok
    assert "not readable" in str(finding.version)


@pytest.mark.parametrize(
    ("governors", "ok"), [(["performance", "performance"], True), (["performance", "powersave"], False), ([], True)]
)
def test_any_governor_but_performance_has_a_remedy(tmp_path: Path, governors: list[str], ok: bool) -> None:  # noqa: FBT001  the expectation
    """It is printed, never run."""
    for index, name in enumerate(governors):
        folder = tmp_path / f"cpu{index}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{name}\n", encoding="utf-8")
    finding = doctor.governor(tmp_path)
    assert finding.ok is ok
    assert (finding.remedy is None) is ok
    assert finding.present is bool(governors)
    assert (finding.means is None) is (bool(governors) and ok)
