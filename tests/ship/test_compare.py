"""Builds side by side: what is read, what is set against what, and which figures are not comparable."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kronexport import terminal_compare
from kronexport.errors import BundleError, UserInputError
from kronexport.records import Check, LayerFigures, Report, TargetReport, Training
from kronexport.ship.compare import compare, comparison_to_json
from kronexport.ship.report_json import write_report_json
from tests.conftest import TARGETS, Built, command
from tests.ship.samples import LATENCY, bundle, figures, target_report, unmeasured_target, write_model

CPU = "x86-onnxruntime"
PROTOCOL = {"seconds": 5.0, "rounds": 20, "threads": 1, "input": {"input": [1, 3, 8, 8]}}
ENVIRONMENT = {
    "cpu_model": "Example CPU",
    "machine": "x86_64",
    "before": {"load_average": [1.0, 1.0, 1.0]},
    "runtime": "onnxruntime",
    "runtime_version": "1.32.0",
    "runtime_options": {"spinning": True, "graph_optimization": "all"},
}


def measured(**changes: Any) -> TargetReport:
    return target_report(**({"protocol": PROTOCOL, "environment": ENVIRONMENT} | changes))


def layer(site: str, **changes: Any) -> LayerFigures:
    row = LayerFigures(site, "gkpd", "4x4x3x1 * 4x4x1x3", (8,), "folded", 1000, 5000, 0.1, dense_us=20.0, us=8.0)
    return replace(row, **changes)


def saved(path: Path, target: TargetReport, name: str = CPU) -> Path:
    write_report_json(Report("net", {name: target}), path)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The comparison of the measured report with one that differs from it in what is given, as JSON."""

    def compared(**changes: Any) -> dict[str, Any]:
        first, second = saved(tmp_path / "a.json", measured()), saved(tmp_path / "b.json", measured(**changes))
        return comparison_to_json(compare([first, second]))

    return compared


# --- figures ------------------------------------------------------------------------------------------------------


def test_figures_keep_the_keys_of_the_report_and_get_ratios_to_the_first(pair: Callable[..., dict[str, Any]]) -> None:
    faster = figures(latency_ms=replace(LATENCY, p50=LATENCY.p50 / 4), macs=40813184 // 2, accuracy=90.0)
    first, second = pair(compressed=faster)["compared"]
    assert (first["label"], second["label"]) == ("A", "B")
    assert second["compressed"]["latency_ms"]["p50"] == LATENCY.p50 / 4
    assert second["speedup"]["ci95"] == (1.2, 1.3)
    assert second["to_first"]["compressed.latency_ms"] == 0.25
    assert second["to_first"]["compressed.macs"] == 0.5
    assert second["to_first"]["compressed.accuracy"] == 90.0 - 90.75
    assert set(first["to_first"].values()) == {1.0, 0.0}
    assert second["comparable"] is True


def test_what_was_not_measured_is_null_with_its_reason(tmp_path: Path) -> None:
    board = saved(tmp_path / "board.json", unmeasured_target(), "jetson-orin-nano")
    compared = comparison_to_json(compare([saved(tmp_path / "a.json", measured()), board]))
    _, second = compared["compared"]
    assert second["compressed"]["latency_ms"] is None
    assert second["to_first"]["compressed.latency_ms"] is None
    assert second["to_first"]["compressed.peak_memory_bytes"] is None
    assert second["to_first"]["compressed.params"] == 2.0
    assert second["unmeasured"]["compressed.latency_ms"] == "not measured: no device"


def test_layers_are_matched_by_name(pair: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    first = saved(tmp_path / "1.json", measured(layers=(layer("stem"), layer("block.conv"))))
    second = saved(tmp_path / "2.json", measured(layers=(layer("block.conv", us=4.0, lowering="dense"), layer("new"))))
    rows = {row["site"]: row["compared"] for row in comparison_to_json(compare([first, second]))["layers"]}
    assert list(rows) == ["stem", "block.conv", "new"]
    assert (rows["stem"]["B"], rows["new"]["A"]) == (None, None)
    assert rows["new"]["B"]["to_first"]["us"] is None
    assert rows["block.conv"]["B"]["lowering"] == "dense"
    assert rows["block.conv"]["B"]["us"] == 4.0
    assert rows["block.conv"]["B"]["to_first"] == {"params": 1.0, "macs": 1.0, "dense_us": 1.0, "us": 0.5}
    (untimed,) = pair()["layers"]
    assert untimed["compared"]["A"]["us"] is None
    assert untimed["compared"]["A"]["to_first"]["us"] is None


def test_the_error_of_outputs_and_the_training_are_compared(
    pair: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for the training only where one was trained."""
    nearer = (Check("factorized", "dense", 0.1, 0.0625, None, None),)
    trained = {"verification": nearer, "recover": Training("distillation", 256, labels=False, epochs=20)}
    first, second = pair(**trained)["compared"]
    assert (first["output_error"], second["output_error"]) == (0.125, 0.0625)
    assert second["to_first"]["compressed.output_error"] == 0.5
    assert (first["recover"], second["recover"]["epochs"]) == (None, 20)
    terminal_compare.print_comparison(compare([tmp_path / "a.json", tmp_path / "b.json"]))
    shown = capsys.readouterr().out.splitlines()
    assert "0.0625 (0.500x)" in next(line for line in shown if "output error" in line)
    assert "20 epochs" in next(line for line in shown if "recovery" in line)
    terminal_compare.print_comparison(compare([tmp_path / "a.json", tmp_path / "a.json"]))
    assert "recovery" not in capsys.readouterr().out


# --- protocols ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "what", "values"),
    [
        ({"protocol": {**PROTOCOL, "threads": 4}}, "threads", {"A": "1", "B": "4"}),
        ({"protocol": {**PROTOCOL, "rounds": 5}}, "rounds", {"A": "20", "B": "5"}),
        ({"protocol": {**PROTOCOL, "seconds": 0.5}}, "seconds", {"A": "5.0", "B": "0.5"}),
        ({"protocol": {"seconds": 5.0, "rounds": 20, "threads": 1}}, "input shape", {"B": "not recorded"}),
        ({"protocol": {**PROTOCOL, "input": {"x": [8, 3, 8, 8]}}}, "input shape", {"A": "1x3x8x8", "B": "8x3x8x8"}),
        ({"environment": {**ENVIRONMENT, "runtime_version": "1.23.0"}}, "runtime_version", {"B": "1.23.0"}),
        ({"environment": {**ENVIRONMENT, "cpu_model": "Another"}}, "cpu_model", {"B": "Another"}),
        ({"environment": {**ENVIRONMENT, "machine": "aarch64"}}, "machine", {"B": "aarch64"}),
        ({"environment": {**ENVIRONMENT, "cpu_features": ["avx2"]}}, "cpu_features", {"A": "not recorded"}),
        (
            {"environment": {**ENVIRONMENT, "runtime_options": {"spinning": False, "graph_optimization": "all"}}},
            "runtime_options.spinning",
            {"A": "True", "B": "False"},
        ),
        ({"precision": "int8"}, "precision", {"A": "fp32", "B": "int8"}),
    ],
)
def test_what_differs_is_said_with_the_values_of_each(
    pair: Callable[..., dict[str, Any]], changes: dict[str, Any], what: str, values: dict[str, str]
) -> None:
    compared = pair(**changes)
    (difference,) = compared["differences"]
    assert difference["what"] == what
    assert values.items() <= difference["values"].items()
    (warning,) = compared["warnings"]
    assert warning.startswith(f"not comparable: {what}: ")
    assert "latency" in warning
    assert [entry["comparable"] for entry in compared["compared"]] == [True, False]


def test_what_changes_while_one_measures_is_no_other_protocol(pair: Callable[..., dict[str, Any]]) -> None:
    """Nor is another name of the input."""
    busier = {**ENVIRONMENT, "before": {"load_average": [9.0, 9.0, 9.0]}}
    compared = pair(environment=busier, protocol={**PROTOCOL, "input": {"x": [1, 3, 8, 8]}})
    assert compared["warnings"] == []


def test_a_target_that_was_not_measured_has_no_other_protocol(tmp_path: Path) -> None:
    """There is nothing of it that could be compared wrongly."""
    board = replace(unmeasured_target(), protocol={}, environment={})
    paths = [saved(tmp_path / "a.json", measured()), saved(tmp_path / "b.json", board, "jetson-orin-nano")]
    assert compare(paths).differences == ()


@pytest.mark.parametrize(("other", "warnings"), [(None, 0), ("each layer alone", 0), ("the engine's layers", 1)])
def test_layer_times_of_another_kind_say_nothing_against_the_networks(
    tmp_path: Path, other: str | None, warnings: int
) -> None:
    """Where one has none there is nothing to compare either."""
    first = measured(protocol={**PROTOCOL, "layer_times": "each layer alone"})
    second = measured(protocol=PROTOCOL if other is None else {**PROTOCOL, "layer_times": other})
    compared = compare([saved(tmp_path / f"{index}.json", one) for index, one in enumerate([first, second])])
    assert [difference.affects for difference in compared.differences] == [("layer times",)] * warnings
    assert all(map(compared.is_comparable, compared.subjects))


@pytest.mark.parametrize(
    ("changes", "marked"),
    [
        ({}, set()),
        ({"input": {"input": [4, 3, 64, 64]}}, {"MACs", "latency p50 ms", "peak memory bytes", "us"}),
        ({"threads": 4}, {"latency p50 ms", "peak memory bytes", "us"}),
        ({"layer_times": "the engine's layers"}, {"us"}),
    ],
)
def test_what_is_no_comparison_has_a_mark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], marked: set[str]
) -> None:
    """And only where there is a mark its meaning is said."""
    protocol = {**PROTOCOL, "layer_times": "each layer alone"}
    both = (
        measured(protocol=protocol, layers=(layer("stem"),)),
        measured(protocol={**protocol, **changes}, layers=(layer("stem"),)),
    )
    terminal_compare.print_comparison(compare([saved(tmp_path / f"{i}.json", one) for i, one in enumerate(both)]))
    lines = capsys.readouterr().out.splitlines()
    found = {line.split("│")[1].strip() for line in lines if line.endswith(" * │") and line[2] != " "}
    found |= {"us"} if any("1.000x *  " in line for line in lines) else set()
    assert found - {"peak while loading or"} == marked
    assert any(line.startswith("warning: ratios with *") for line in lines) is bool(marked)


def test_what_differs_without_a_ratio_is_said_without_a_mark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = replace(unmeasured_target(), precision="int8", protocol={}, environment={})
    board = saved(tmp_path / "b.json", half, "jetson-orin-nano")
    terminal_compare.print_comparison(compare([saved(tmp_path / "a.json", measured()), board]))
    shown = capsys.readouterr().out
    assert "warning: not comparable: precision" in shown
    assert "ratios with *" not in shown
    assert "not measured: not measured" not in shown


def test_only_those_are_marked_that_differ_from_the_first(tmp_path: Path) -> None:
    other = measured(protocol={**PROTOCOL, "threads": 4})
    paths = [saved(tmp_path / f"{index}.json", target) for index, target in enumerate([measured(), other, measured()])]
    compared = compare(paths)
    assert [compared.is_comparable(subject) for subject in compared.subjects] == [True, False, True]


# --- what is read -------------------------------------------------------------------------------------------------


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output with one bundle, as far as comparing looks at it."""
    model = write_model(tmp_path / "simplified.onnx")
    out = tmp_path / "out"
    bundle(out / CPU, model)
    saved(out / "report.json", measured(compressed=figures(bytes=model.stat().st_size)))
    return out


def test_an_output_a_report_and_a_bundle_are_one(output: Path) -> None:
    compared = compare([output, output / "report.json", output / CPU])
    assert [subject.report for subject in compared.subjects] == [compared.subjects[0].report] * 3
    assert [subject.source for subject in compared.subjects] == [
        str(output),
        f"{output}/report.json",
        f"{output}/{CPU}",
    ]


def test_a_report_of_several_targets_contributes_each(built: Built) -> None:
    compared = compare([built.folder])
    assert tuple(subject.target for subject in compared.subjects) == TARGETS
    assert any(difference.what == "runtime" for difference in compared.differences)


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "SHA256SUMS", "run.py"])
@pytest.mark.parametrize("place", ["", CPU])
def test_a_damaged_bundle_is_refused(output: Path, name: str, place: str) -> None:
    (output / CPU / name).unlink()
    with pytest.raises(BundleError, match=name):
        compare([output / "report.json", output / place])


def test_a_report_of_another_build_than_the_bundle_is_refused(output: Path) -> None:
    saved(output / "report.json", measured())
    with pytest.raises(BundleError, match="they are of different builds"):
        compare([output / CPU, output / CPU])


def test_a_bundle_needs_its_report_beside_it(output: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(output / CPU, tmp_path / "alone" / CPU)
    with pytest.raises(UserInputError, match=r"there is no .*report\.json"):
        compare([output, alone])
    saved(alone.parent / "report.json", measured(), "x86-openvino")
    with pytest.raises(UserInputError, match=f"tells of x86-openvino, not of {CPU}"):
        compare([output, alone])


def test_one_network_is_nothing_to_compare(output: Path) -> None:
    with pytest.raises(UserInputError, match="1 network, expected two or more"):
        compare([output])


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_prints_tables_or_json(output: Path, tmp_path: Path) -> None:
    other = saved(tmp_path / "b.json", measured(protocol={**PROTOCOL, "threads": 4}))
    ended = command("compare", output, other, "--json")
    assert ended.code == 0, ended.err
    assert [entry["source"] for entry in json.loads(ended.out)["compared"]] == [str(output), str(other)]
    shown = command("compare", output, other)
    assert shown.code == 0, shown.err
    for text in ("latency p50 ms", "A: speed-up 1.25x", "warning: not comparable: threads: 1 (A), 4 (B)", "1.000x) *"):
        assert text in shown.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("none", "none"), 2, "none: expected the output folder of a build, a report.json, or a bundle"),
        (("text", "text"), 2, "cannot be read as JSON"),
        (("empty", "empty"), 2, "empty: expected the output folder"),
        ((), 2, "Missing argument"),
    ],
)
def test_wrong_input_ends_in_2(
    arguments: tuple[str, ...], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("no JSON", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    ended = command("compare", *arguments)
    assert ended.code == code
    assert words in ended.err
    assert ended.out == ""


def test_a_damaged_bundle_ends_in_6(output: Path) -> None:
    (output / CPU / "model.onnx").write_bytes(b"")
    ended = command("compare", output, output)
    assert ended.code == 6
    assert "model.onnx: sha256 is" in ended.err


def test_what_is_shown_is_never_zero_for_not_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = "a.very.long.name.of.a.module.that.no.column.could.hold.whole.conv1"
    first = saved(tmp_path / "a.json", measured(layers=(layer(site), layer("second"))))
    board = replace(unmeasured_target(), layers=(layer(site, us=None, dense_us=None),))
    second = saved(tmp_path / "b.json", board, "jetson-orin-nano")
    terminal_compare.print_comparison(compare([first, second]))
    lines = capsys.readouterr().out.splitlines()
    assert "not measured" in next(line for line in lines if "latency p50" in line)
    assert site in lines
    timed, untimed = lines[lines.index(site) + 1 : lines.index(site) + 3]
    assert timed.split()[:6] == ["A", "folded", "5,000", "20", "8", "1.000x"]
    assert untimed.split()[:6] == ["B", "folded", "5,000", "-", "-", "-"]
    assert "  B  no such layer" in lines
    assert any(line.startswith("B: not measured: ") and line.endswith(": no device") for line in lines)
    assert "B: speed: not measured (no device)" in lines
