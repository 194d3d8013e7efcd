"""Targets: the files that ship, how names resolve, and what a wrong file is told."""

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
    ],
)
def test_names_aliases_and_variants_resolve(asked: str, name: str, backend: str, opset: int, ir_version: int) -> None:
    """The contract of the command line."""
    profile = load_target(asked)
    assert (profile.name, profile.backend, profile.opset, profile.ir_version) == (name, backend, opset, ir_version)


def test_no_name_or_alias_is_given_twice() -> None:
    """Otherwise what a name resolves to would depend on the order of the files."""
    names = [name for profile in list_targets() for name in (profile.name, *profile.aliases)]
    assert len(names) == len(set(names))


def test_every_figure_of_a_shipped_target_has_its_source() -> None:
    """What ranks lowerings or limits the file written must be traceable, in every variant."""
    needed = {"opset", "rank_multiple", "runtime.version"}
    needed |= {f"roofline.{key}" for key in ("peak_gmacs", "bandwidth_gbs", "launch_us")}
    for base in list_targets():
        for profile in [base, *(load_target(f"{base.name}@{variant}") for variant in base.variants)]:
            assert needed <= set(profile.facts), profile.name
            assert profile.runtime.version in profile.facts["runtime.version"].value
            assert str(profile.opset) in profile.facts["opset"].value


def test_the_targets_of_a_checkout_are_found() -> None:
    """They lie beside the package, or in it once installed."""
    assert {path.stem for path in targets_folder().glob("*.toml")} == {profile.name for profile in list_targets()}


def test_an_unknown_target_is_answered_with_the_nearest_and_the_list() -> None:
    """Exit code 2."""
    with pytest.raises(UserInputError, match=r"did you mean 'x86-openvino'.*jetson-orin-nano, x86-onnxruntime"):
        load_target("x86-opnvino")


@pytest.mark.parametrize("asked", ["jetson@jp6.3", "jetson@"])
def test_an_unknown_variant_is_answered_with_the_list(asked: str) -> None:
    """Exit code 2."""
    with pytest.raises(UserInputError, match=r"no such variant.*jetson-orin-nano has jp6\.0, jp6\.2"):
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
        ("threads = 2", "threads = 0", "threads: got 0, expected: .*greater than 0"),
        ('"onnxruntime"\nopset', '"onnx-runtime"\nopset', "backend: got 'onnx-runtime', expected: .*'onnxruntime'"),
        ("opset = 17", "opset = 12", r"opset: got 12, expected one of \[13, 17, 18, 19, 20\]"),
        ("ir_version = 8", "ir_version = 9", "ir_version: got 9, expected 8: that of opset 17"),
        ('precisions = ["fp32"]', 'precisions = ["fp32", "fp16"]', "tolerances: got .*expected one a precision"),
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
