"""Targets: the files that ship, how names resolve, and what a wrong file is told."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from kronexport.backends.profile import RuntimeRule, list_targets, load_target, targets_folder
from kronexport.errors import UserInputError

VALID = """
name = "board"
description = "A board"
aliases = ["nick"]
backend = "onnxruntime"
opset = 17
ir_version = 8
precisions = ["fp32"]
threads = 2
rank_multiple = 4
tolerances = { fp32 = 1e-5 }
routes = { fp32 = ["float-onnx"], fp16 = [], int8 = ["qdq-unsigned", "qdq-symmetric"] }
roofline = { peak_gmacs = 10, bandwidth_gbs = 5.5, launch_us = 0 }
runtime = { package = "onnxruntime", version = "1.20", rule = "minimum" }
"""
VARIANTS = """
variant = "v1"
[variants.v2]
opset = 13
ir_version = 7
roofline = { peak_gmacs = 20.0 }
"""


def target_file(folder: Path, text: str = VALID, name: str = "board") -> Path:
    """A folder of targets with one file."""
    (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("asked", "name", "backend", "opset", "ir_version"),
    [
        ("cpu", "x86-onnxruntime", "onnxruntime", 18, 8),
        ("openvino", "x86-openvino", "openvino", 18, 8),
        ("jetson", "jetson-orin-nano", "tensorrt", 17, 8),
        ("jetson-orin-nano@jp6.0", "jetson-orin-nano", "tensorrt", 17, 8),
        ("jetson@jp6.2", "jetson-orin-nano@jp6.2", "tensorrt", 20, 9),
        ("jetson-nano@jp4.6", "jetson-nano", "tensorrt", 13, 7),
        ("rpi", "rpi5", "onnxruntime", 18, 8),
    ],
)
def test_names_aliases_and_variants_resolve(asked: str, name: str, backend: str, opset: int, ir_version: int) -> None:
    """The contract of the command line."""
    profile = load_target(asked)
    assert (profile.name, profile.backend, profile.opset, profile.ir_version) == (name, backend, opset, ir_version)


def every_name() -> list[str]:
    """Of all shipped targets, with their variants."""
    return [f"{base.name}{at}" for base in list_targets() for at in ("", *(f"@{name}" for name in base.variants))]


every_profile = pytest.mark.parametrize("name", every_name())


def test_no_name_or_alias_is_given_twice() -> None:
    """Otherwise what a name resolves to would depend on the order of the files."""
    names = [name for profile in list_targets() for name in (profile.name, *profile.aliases)]
    assert len(names) == len(set(names))


@every_profile
def test_every_figure_of_a_shipped_target_has_its_source(name: str) -> None:
    """What ranks lowerings or limits the file written must be traceable, in every variant."""
    profile = load_target(name)
    needed = {"opset", "threads", "rank_multiple", "runtime.version"}
    needed |= {f"roofline.{key}" for key in ("peak_gmacs", "bandwidth_gbs", "launch_us")}
    needed |= {f"routes.{precision}" for precision in ("fp32", "fp16", "int8")}
    if not profile.measured_here:
        needed.add("memory_gb")
    if profile.compatible:
        needed.add("compatible")
    if profile.board is not None:
        needed |= {"power_mode", "board.jetpack", "board.sm", "board.workspace_mib"}
    assert needed <= set(profile.facts)
    assert profile.runtime.version in profile.facts["runtime.version"].value
    assert str(profile.opset) in profile.facts["opset"].value


@every_profile
def test_a_fact_of_a_device_says_the_figure_that_it_is_of(name: str) -> None:
    """A variant that changes a figure changes the fact, too."""
    profile = load_target(name)
    if profile.measured_here:
        return  # what was measured is given as a range
    figures = {f"roofline.{key}": value for key, value in profile.roofline.model_dump().items()}
    figures |= {"memory_gb": profile.memory_gb, "threads": profile.threads, "rank_multiple": profile.rank_multiple}
    figures |= {f"board.{key}": value for key, value in (profile.board.model_dump() if profile.board else {}).items()}
    for key, value in figures.items():
        if isinstance(value, int | float):
            assert value in map(float, re.findall(r"\d+(?:\.\d+)?", profile.facts[key].value)), key


@every_profile
def test_what_a_device_is_said_to_do_is_marked_unverified(name: str) -> None:
    """Nothing was run on one; only what a target measured here says may be certain."""
    profile = load_target(name)
    keys = ["roofline.peak_gmacs", "roofline.bandwidth_gbs", "roofline.launch_us"]
    assert profile.measured_here or all(profile.facts[key].unverified for key in keys)


def test_only_the_targets_that_are_any_machine_are_measured_here() -> None:
    assert [profile.name for profile in list_targets() if profile.measured_here] == ["x86-onnxruntime", "x86-openvino"]


# --- devices ----------------------------------------------------------------------------------------------------

JETPACKS = {
    # TensorRT, opset, IR, Python, CUDA
    "4.6": ("8.2.1", 13, 7, "3.6", "10.2"),
    "5.1": ("8.5.2", 17, 8, "3.8", "11.4"),
    "6.0": ("8.6.2", 17, 8, "3.10", "12.2"),
    "6.2": ("10.3", 20, 9, "3.10", "12.6"),
    "7.0": ("10.13", 20, 9, "3.12", "13.0"),
    "7.2": ("10.16", 20, 9, "3.12", "13.2"),
    "7.2.2": ("11.4.1", 20, 9, "3.12", "13.2"),
}
ORIN = {"5.1", "6.0", "6.2", "7.2", "7.2.2"}
DEVICES = {
    "jetson-nano": ("5.3", "nvidia,tegra210", {"4.6"}),
    "jetson-tx2": ("6.2", "nvidia,tegra186", {"4.6"}),
    "jetson-xavier-nx": ("7.2", "nvidia,tegra194", {"4.6", "5.1"}),
    "jetson-agx-xavier": ("7.2", "nvidia,tegra194", {"4.6", "5.1"}),
    "jetson-orin-nano": ("8.7", "nvidia,tegra234", ORIN),
    "jetson-orin-nx": ("8.7", "nvidia,tegra234", ORIN),
    "jetson-agx-orin": ("8.7", "nvidia,tegra234", ORIN),
    "jetson-thor": ("11.0", "nvidia,tegra264", {"7.0", "7.2", "7.2.2"}),
}


def test_the_jetsons_are_those_that_there_are() -> None:
    assert {profile.name for profile in list_targets() if profile.board is not None} == set(DEVICES)


@pytest.mark.parametrize(
    ("device", "jetpack"), [(device, jetpack) for device, (_, _, has) in DEVICES.items() for jetpack in sorted(has)]
)
def test_a_jetpack_brings_the_same_to_every_jetson(device: str, jetpack: str) -> None:
    """TensorRT, the opset and IR that it reads, Python and CUDA."""
    profile = load_target(f"{device}@jp{jetpack}")
    assert profile.board is not None
    got = profile.runtime.version, profile.opset, profile.ir_version, profile.board.python, profile.board.cuda
    assert got == JETPACKS[jetpack]
    assert (profile.board.jetpack, profile.variant) == (jetpack, f"jp{jetpack}")
    assert (profile.board.sm, *profile.compatible) == DEVICES[device][:2]


@pytest.mark.parametrize("device", DEVICES)
def test_a_jetson_has_no_other_jetpacks(device: str) -> None:
    base = load_target(device)
    assert {base.variant, *base.variants} == {f"jp{jetpack}" for jetpack in DEVICES[device][2]}


@pytest.mark.parametrize(
    ("name", "fp16", "int8"),
    [
        ("jetson-nano", ("fp16-onnx", "fp16-flag"), ()),
        ("jetson-tx2", ("fp16-onnx", "fp16-flag"), ()),
        ("jetson", ("fp16-onnx", "fp16-flag"), ("qdq-symmetric",)),
        ("jetson@jp7.2.2", ("fp16-onnx",), ("qdq-symmetric",)),
        ("rpi4", (), ("qdq-unsigned", "qdq-symmetric")),
        ("rpi5", ("fp16-onnx",), ("qdq-unsigned", "qdq-symmetric")),
        ("intel-n100", (), ("qdq-nncf", "qdq-unsigned")),
        ("cpu", (), ("qdq-unsigned",)),
    ],
)
def test_the_ways_to_a_precision_are_those_of_device_and_runtime(
    name: str, fp16: tuple[str, ...], int8: tuple[str, ...]
) -> None:
    """None where the device has no such arithmetic; TensorRT 11 has no flags for it."""
    routes = load_target(name).routes
    assert (routes["fp16"], routes["int8"]) == (fp16, int8)


@pytest.mark.parametrize("device", DEVICES)
def test_a_jetson_is_built_in_int8_where_its_gpu_has_it(device: str) -> None:
    """From Volta's SM 7.2 on, in every JetPack; the tolerance is that of the other targets."""
    base = load_target(device)
    for profile in (base, *(load_target(f"{device}@{variant}") for variant in base.variants)):
        assert profile.board is not None
        has_it = float(profile.board.sm) >= 7.2
        assert ("int8" in profile.precisions) == has_it
        assert profile.routes["int8"] == (("qdq-symmetric",) if has_it else ())
        assert profile.tolerances.get("int8") == (load_target("cpu").tolerances["int8"] if has_it else None)


def test_super_is_the_power_mode_of_the_jetpacks_that_have_it() -> None:
    before, after = load_target("jetson"), load_target("jetson@jp6.2")
    assert (before.power_mode, after.power_mode) == ("15W", "MAXN_SUPER")
    assert before.roofline.peak_gmacs < after.roofline.peak_gmacs
    assert before.roofline.bandwidth_gbs < after.roofline.bandwidth_gbs


# --- how files are read -----------------------------------------------------------------------------------------


def test_the_targets_of_a_checkout_are_found() -> None:
    """They lie beside the package, or in it once installed."""
    assert {path.stem for path in targets_folder().glob("*.toml")} == {profile.name for profile in list_targets()}


def test_an_unknown_target_is_answered_with_the_nearest_and_the_list() -> None:
    """Exit code 2."""
    with pytest.raises(UserInputError, match=r"did you mean 'x86-openvino'.*jetson-orin-nano, .*, x86-onnxruntime"):
        load_target("x86-opnvino")


@pytest.mark.parametrize("asked", ["jetson@jp6.3", "jetson@"])
def test_an_unknown_variant_is_answered_with_the_list(asked: str) -> None:
    """Exit code 2."""
    with pytest.raises(UserInputError, match=r"no such variant.*jetson-orin-nano has jp6\.0, .*jp6\.2"):
        load_target(asked)


def test_a_target_without_variants_says_so() -> None:
    """Rather than an empty list."""
    with pytest.raises(UserInputError, match="x86-onnxruntime has none"):
        load_target("cpu@jp6.2")


def test_a_profile_cannot_be_changed() -> None:
    """Stages share it."""
    with pytest.raises(ValidationError, match="frozen"):
        load_target("cpu").threads = 2  # type: ignore[misc]  # the assignment is the test


def test_a_variant_overrides_tables_key_by_key(tmp_path: Path) -> None:
    """What it doesn't name stays as the file has it."""
    profile = load_target("nick@v2", target_file(tmp_path, VALID + VARIANTS))
    assert (profile.name, profile.variant, profile.opset, profile.threads) == ("board@v2", "v2", 13, 2)
    assert (profile.roofline.peak_gmacs, profile.roofline.bandwidth_gbs) == (20.0, 5.5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("opset = 17", "opset = 17\nopsett = 18", r"opsett: unknown key \(did you mean 'opset'\?\)"),
        ("launch_us = 0", "launch_us = 0, launch_ms = 1", r"roofline\.launch_ms: unknown key .*'launch_us'"),
        ("threads = 2\n", "", "threads: missing key"),
        ("threads = 2", 'threads = "2"', "threads: got '2', expected: .*integer"),
        ("launch_us = 0", "launch_us = inf", r"roofline\.launch_us: got inf, expected: .*finite"),
        ("threads = 2", "threads = 0", "threads: got 0, expected: .*greater than 0"),
        ('"onnxruntime"\nopset', '"onnx-runtime"\nopset', "backend: got 'onnx-runtime', expected: .*'onnxruntime'"),
        ("opset = 17", "opset = 12", r"opset: got 12, expected one of \[13, 17, 18, 19, 20\]"),
        ("ir_version = 8", "ir_version = 9", "ir_version: got 9, expected 8: that of opset 17"),
        ('precisions = ["fp32"]', 'precisions = ["fp32", "fp16"]', "tolerances: got .*expected one a precision"),
        ("int8 = [", "int4 = [", r"routes\.int4.*: got 'int4'"),
        (', int8 = ["qdq-unsigned", "qdq-symmetric"]', "", r"routes: got \['fp16', 'fp32'\], expected all of .*int8"),
        ('fp32 = ["float-onnx"]', "fp32 = []", r"routes\.fp32: got none, expected one: precisions names fp32"),
        ("fp16 = []", 'fp16 = ["fp16"]', r"routes\.fp16.*: got 'fp16', expected: .*'fp16-flag'"),
        ("threads = 2", "threads = 2\nmeasured_here = 1", "measured_here: got 1, expected: .*boolean"),
        (
            "threads = 2",
            'threads = 2\nfacts = { thread = { value = "2", source = "x" } }',
            r"facts\.thread: no such key \(did you mean 'threads'\?\)",
        ),
        (
            "threads = 2",
            'threads = 2\nfacts = { roofline = { value = "2", source = "x" } }',
            r"facts\.roofline: no such key \(did you mean 'roofline\.\w+'\?\)",
        ),
        ('precisions = ["fp32"]', "precisions = []", r"precisions: got \[\], expected: .*at least 1"),
        ('"onnxruntime"\nopset', '"tensorrt"\nopset', "board: expected with backend tensorrt"),
        ('name = "board"', 'name = "other"', "name: got 'other', expected 'board'"),
        ("threads = 2", "threads =", "not TOML: .*line 9"),
        ("threads = 2", "threads = 2\nvariants = { v2 = {} }", "variant: missing"),
    ],
)
def test_a_wrong_file_is_named_with_key_and_expectation(tmp_path: Path, old: str, new: str, message: str) -> None:
    """Exit code 2, for whichever target was asked for."""
    assert VALID.count(old) == 1
    folder = target_file(tmp_path, VALID.replace(old, new))
    with pytest.raises(UserInputError, match=message) as caught:
        load_target("board", folder)
    assert str(folder / "board.toml") in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("opset = 13", "opset = 18", r"variants\.v2: ir_version: got 7, expected 8"),
        ("opset = 13", "opsets = 13", r"variants\.v2: opsets: unknown key"),
        ("opset = 13", 'backend = "openvino"', r"variants\.v2: backend: a variant cannot have its own"),
    ],
)
def test_a_wrong_variant_is_found_without_being_asked_for(tmp_path: Path, old: str, new: str, message: str) -> None:
    """A target file is checked whole."""
    folder = target_file(tmp_path, VALID + VARIANTS.replace(old, new))
    with pytest.raises(UserInputError, match=message):
        load_target("board", folder)


@pytest.mark.parametrize(
    ("rule", "wanted", "version", "allowed"),
    [
        ("minimum", "1.23", "1.23.0", True),
        ("minimum", "1.23", "1.23", True),
        ("minimum", "1.23.0", "1.23", True),
        ("minimum", "1.23", "1.9.9", False),
        ("minimum", "2026.0", "2026.4.1-22982-e213a147257", True),
        ("exact", "8.6.2", "8.6.2.3-1+cuda12.2", True),
        ("exact", "8.6.2", "8.6.20", False),
        ("exact", "8.6.2", "10.3.0", False),
        ("minimum", "1.0", "unknown", False),
    ],
)
def test_versions_are_compared_as_numbers(rule: str, wanted: str, version: str, allowed: bool) -> None:  # noqa: FBT001  the expectation
    """1.9 is older than 1.23, and what a build appends doesn't count."""
    parsed = RuntimeRule.model_validate({"package": "runtime", "version": wanted, "rule": rule})
    assert parsed.allows(version) is allowed


def test_what_is_built_on_a_board_is_not_measured_here(tmp_path: Path) -> None:
    """Its engine does not run here."""
    text = (targets_folder() / "jetson-nano.toml").read_text(encoding="utf-8")
    folder = target_file(tmp_path, text.replace("threads = 1", "threads = 1\nmeasured_here = true"), "jetson-nano")
    with pytest.raises(UserInputError, match="measured_here: got true, expected false: the engine is built on the"):
        load_target("jetson-nano", folder)


@pytest.mark.parametrize("alias", ["board", "nick"])
def test_a_name_that_two_files_have_is_refused(alias: str, tmp_path: Path) -> None:
    """Which of them a build is for would depend on the order of the files."""
    folder = target_file(tmp_path, VALID)
    other = VALID.replace('name = "board"', 'name = "other"').replace('"nick"', f'"{alias}"')
    (folder / "other.toml").write_text(other, encoding="utf-8")
    with pytest.raises(UserInputError, match=rf"other\.toml: '{alias}' is a name or an alias in .*board\.toml, too"):
        load_target("other", folder)
