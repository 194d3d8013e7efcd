"""Every option that any command has is one of the release that it is for, and says what differs between releases."""

import json
from pathlib import Path

import pytest

from kronexport.backends.profile import Route, list_targets, load_target
from kronexport.backends.trtexec import (
    DIALECTS,
    Build,
    Shapes,
    build_command,
    dialect_of,
    engine_name,
    memory_command,
    outputs_command,
    profile_command,
    time_command,
)
from kronexport.errors import UserInputError
from kronexport.machines.place import Command

OPTIONS = json.loads((Path(__file__).parent / "data" / "trtexec_options.json").read_text(encoding="utf-8"))["releases"]
RELEASES = [dialect.release for dialect in DIALECTS]
every_release = pytest.mark.parametrize("release", RELEASES)


RANGE: tuple[Shapes, Shapes, Shapes] = ({"x": (1, 3, 8, 8)}, {"x": (2, 3, 8, 8)}, {"x": (5, 3, 8, 8)})


def build(release: str, route: Route = "float-onnx", shapes: tuple[Shapes, Shapes, Shapes] | None = None) -> Command:
    order = Build("m.onnx", "m.engine", route, 512, "t.cache", "l.json", shapes=shapes)
    return build_command("trtexec", dialect_of(release), order)


def commands(release: str) -> list[Command]:
    """Each kind of command, and each way to a precision that the release has."""
    dialect = dialect_of(release)
    return [
        *(build(release, route) for route in dialect.flags),
        build(release, shapes=RANGE),
        time_command("trtexec", dialect, "m.engine", "times.json", shapes=RANGE[0]),
        profile_command("trtexec", dialect, "m.engine", "profile.json", shapes=RANGE[0]),
        outputs_command("trtexec", dialect, "m.engine", {"x": "x.bin"}, "outputs.json", shapes=RANGE[0]),
        memory_command("trtexec", dialect, "m.engine", shapes=RANGE[0]),
        time_command("trtexec", dialect, "m.engine", "times.json"),
        profile_command("trtexec", dialect, "m.engine", "profile.json"),
        outputs_command("trtexec", dialect, "m.engine", {"x": "x.bin"}, "outputs.json"),
    ]


@every_release
def test_every_option_is_one_of_the_release(release: str) -> None:
    for command in commands(release):
        assert command[0] == "trtexec"
        assert all(word.startswith("--") for word in command[1:])
        assert {word[2:].partition("=")[0] for word in command[1:]} <= set(OPTIONS[release]), command


@every_release
def test_every_option_that_takes_a_value_has_one(release: str) -> None:
    """And none has two."""
    bare = {"noTF32", "buildOnly", "skipInference", "fp16", "int8", "stronglyTyped", "useCudaGraph", "useSpinWait"}
    bare |= {"noDataTransfers", "noCudaGraph", "noSpinWait", "includeDataTransfers"}
    for command in commands(release):
        for word in command[1:]:
            name, equals, value = word[2:].partition("=")
            assert (name in bare) == (not equals), word
            assert not equals or value, word
        names = [word.partition("=")[0] for word in command]
        assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("release", "workspace", "last"),
    [
        ("8.2.1", "--workspace=512", "--buildOnly"),
        ("8.5.2", "--memPoolSize=workspace:512", "--buildOnly"),
        ("8.6.2", "--memPoolSize=workspace:512", "--skipInference"),
        ("10.3", "--memPoolSize=workspace:512", "--skipInference"),
        ("11.4.1", "--memPoolSize=workspace:512", "--skipInference"),
    ],
)
def test_memory_and_build_only_were_renamed_on_the_way(release: str, workspace: str, last: str) -> None:
    """fp32 is fp32 in all of them."""
    command = build(release)
    assert workspace in command
    assert command[-1] == last
    assert "--noTF32" in command


@pytest.mark.parametrize(
    ("release", "route", "flags"),
    [
        ("8.2", "float-onnx", set()),
        ("8.2", "qdq-symmetric", {"--int8"}),
        ("8.6", "fp16-onnx", {"--fp16"}),
        ("8.6", "fp16-flag", {"--fp16"}),
        ("10.3", "fp16-flag", {"--fp16"}),
        ("10.3", "fp16-onnx", {"--stronglyTyped"}),
        ("10.16", "qdq-symmetric", {"--stronglyTyped"}),
        ("10.3", "float-onnx", set()),
        ("11.0", "qdq-symmetric", set()),
        ("11.0", "fp16-onnx", set()),
    ],
)
def test_a_precision_is_reached_by_the_releases_own_way(release: str, route: Route, flags: set[str]) -> None:
    """By a flag that permits it, by one that says to obey the ONNX, or by the ONNX alone."""
    assert set(build(release, route)) & {"--fp16", "--int8", "--best", "--stronglyTyped"} == flags


def test_tensorrt_11_has_no_flag_for_a_precision() -> None:
    with pytest.raises(UserInputError, match=r"TensorRT 11\.0: no such way to a precision: fp16-flag; expected float"):
        build("11.0", "fp16-flag")


@every_release
def test_what_is_on_by_default_in_some_release_is_said_in_each(release: str) -> None:
    """Times of releases 10 and 11 compare; outputs come over to the host, and layers are seen outside of a graph."""
    dialect = dialect_of(release)
    timed = set(time_command("trtexec", dialect, "e", "t"))
    assert {"--useCudaGraph", "--useSpinWait", "--noDataTransfers"} <= timed
    once = set(outputs_command("trtexec", dialect, "e", {"x": "f"}, "o"))
    profiled = set(profile_command("trtexec", dialect, "e", "p"))
    assert not {"--noDataTransfers", "--useCudaGraph"} & once
    assert "--useCudaGraph" not in profiled
    on = release.startswith("11")
    assert ("--includeDataTransfers" in once) == ("--noCudaGraph" in profiled) == on


def test_inputs_go_by_name() -> None:
    command = outputs_command("trtexec", dialect_of("8.6"), "e", {"x": "x.bin", "mask": "m.bin"}, "o.json")
    assert "--loadInputs=x:x.bin,mask:m.bin" in command


@every_release
def test_shapes_are_said_where_they_are_open_and_nowhere_else(release: str) -> None:
    """The range at the build, one of it at a run: with these options in every release."""
    dialect = dialect_of(release)
    assert {"--minShapes=x:1x3x8x8", "--optShapes=x:2x3x8x8", "--maxShapes=x:5x3x8x8"} <= set(
        build(release, shapes=RANGE)
    )
    two = {"x": (2, 3, 8, 8), "mask": (2, 1)}
    assert "--shapes=x:2x3x8x8,mask:2x1" in time_command("trtexec", dialect, "e", "t", shapes=two)
    assert not any("hapes" in word for word in (*build(release), *time_command("trtexec", dialect, "e", "t")))


@pytest.mark.parametrize(
    ("version", "release"),
    [("8.2.1", "8.2"), ("8.4", "8.2"), ("8.6.2.3-1+cuda12.2", "8.6"), ("10.7", "10.3"), ("11.4.1", "11.0")],
)
def test_a_release_speaks_as_the_last_one_known_before_it(version: str, release: str) -> None:
    assert dialect_of(version).release == release


@pytest.mark.parametrize("version", ["7.1.3", "12.0", "8", "new"])
def test_a_release_that_nobody_looked_at_is_refused(version: str) -> None:
    with pytest.raises(UserInputError, match=r"TensorRT '?\S+: .*expected"):
        dialect_of(version)


def test_every_target_with_a_board_has_a_dialect() -> None:
    """And reaches the precisions that it is built in, by a route of its profile."""
    for base in (profile for profile in list_targets() if profile.board is not None):
        for name in (base.name, *(f"{base.name}@{variant}" for variant in base.variants)):
            profile = load_target(name)
            flags = dialect_of(profile.runtime.version).flags
            assert all(route in flags for routes in profile.routes.values() for route in routes), name


def test_an_engine_is_named_by_what_it_fits() -> None:
    assert engine_name("8.7", "8.6.2", "int8") == "model-sm87-trt8.6.2-int8.engine"
