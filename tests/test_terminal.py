"""What people read: progress on stderr, tables on stdout, no colour codes into a pipe."""

import io
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from rich.console import Console

from kronexport import terminal, terminal_progress
from kronexport.backends.doctor import Finding
from kronexport.backends.profile import load_target
from kronexport.factorize.gkpd import gkpd_structure
from kronexport.measure.latency import BenchResult
from kronexport.pipeline import DryRun
from kronexport.records import Plan, Report, SitePlan, Speedup, Survey
from tests.plan.samples import site
from tests.ship.samples import LATENCY, PARETO, figures, report, target_report, unmeasured_target

if TYPE_CHECKING:
    from kronexport.survey.project import Project

ESCAPE = "\x1b"


def cells_of(text: str, label: str) -> list[str]:
    """Those of the row of a table that begins with ``label``."""
    (row,) = (line for line in text.splitlines() if line.startswith(f"│ {label} "))
    return [cell.strip() for cell in row.split("│")[1:-1]]


def test_progress_tells_each_stage_once_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Into a pipe: a line a stage with what there is to do, however often it moves on, and nothing on stdout."""
    with terminal_progress.progress() as tell:
        for done in range(3):
            tell("plan", done, 3)
        tell("measure", 0, 1)
    said = capsys.readouterr()
    assert said.err.splitlines() == ["plan: 0 of 3", "measure"]
    assert said.out == ""
    assert ESCAPE not in said.err


def test_a_stage_that_comes_again_is_told_again(capsys: pytest.CaptureFixture[str]) -> None:
    """Of several targets each walks the whole line."""
    with terminal_progress.progress() as tell:
        for stage in ("plan", "measure", "plan"):
            tell(stage, 0, 1)
    assert capsys.readouterr().err.split() == ["plan", "measure", "plan"]


def test_a_stage_that_takes_long_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """In a log, too: every ten seconds, not at every step."""
    clock = iter(range(0, 1000, 4))
    tell = terminal_progress.lines(Console(stderr=True), lambda: float(next(clock)))
    for done in range(8):
        tell("fit [all]", done, 8)
    assert capsys.readouterr().err.splitlines() == [f"fit [all]: {done} of 8" for done in (0, 3, 6)]


def test_a_terminal_gets_a_moving_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is left clean behind it."""

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with terminal_progress.progress() as tell:
        tell("plan", 1, 2)
    assert "plan" in screen.getvalue()
    assert ESCAPE in screen.getvalue()


def test_the_report_shows_what_a_user_asks_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Figures of both networks, the verdict, goals and checks, in 80 columns and without colour codes."""
    terminal.print_report(report())
    text = capsys.readouterr().out
    for expected in (
        "sample:resnet20 on x86-onnxruntime",
        "269,722",
        "134,861",
        "0.500",
        "0.766",
        "-0.5",
        "speed-up 1.25x, 95 % 1.20 to 1.30: faster",
        "goal params<=0.6: met, reached 0.55",
        "factorized against dense: 1.2e-01 (an approximation)",
        "portable against factorized: 2.0e-07 (at most 1e-05)",
    ):
        assert expected in text
    assert ESCAPE not in text
    assert max(map(len, text.splitlines())) <= 80


def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets of patterns, addresses and paths are no markup, and colons no emoji."""
    notes = ("measured at me@[fe80::1]:22", "folder [/x] of :warning:")
    terminal.print_report(Report("nets[v2]/a.py:net", {"x86-onnxruntime": target_report(notes=notes)}))
    text = capsys.readouterr().out
    for expected in ("nets[v2]/a.py:net", *notes):
        assert expected in text


def test_an_accuracy_is_shown_whatever_it_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """Parts of one as well as percent."""
    terminal.print_report(report(dense=figures(accuracy=0.9234), compressed=figures(accuracy=0.9187)))
    text = capsys.readouterr().out
    assert cells_of(text, "accuracy") == ["accuracy", "0.9234", "0.9187", "-0.0047"]


def test_one_side_that_was_measured_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_report(report(dense=figures(accuracy=None, peak_memory_bytes=None)))
    text = capsys.readouterr().out
    assert cells_of(text, "accuracy") == ["accuracy", "not measured", "90.75", ""]
    assert cells_of(text, "peak memory bytes") == ["peak memory bytes", "not measured", "7,340,032", ""]


def test_what_was_not_measured_is_said_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_report(Report("net", {"jetson-orin-nano": unmeasured_target()}))
    text = capsys.readouterr().out
    assert "not measured (not measured" not in text
    assert "speed: not measured (no device)" in text
    assert "goal latency<=0.5: not measured" in text
    assert text.count("not measured") >= 2 * 3


def test_a_missed_goal_stands_out(capsys: pytest.CaptureFixture[str]) -> None:
    missed = target_report().goals[0]
    terminal.print_report(report(goals=(type(missed)(missed.expr, 0.7, met=False),)))
    assert "goal params<=0.6: MISSED, reached 0.7\n" in capsys.readouterr().out
    terminal.print_report(report(goals=(type(missed)(missed.expr, 0.600041, met=False),)))
    assert "goal params<=0.6: MISSED, reached 0.60004\n" in capsys.readouterr().out


def test_a_bench_shows_every_model_and_the_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    speedup = Speedup(0.8, (0.7, 0.9), "slower")
    terminal.print_bench(BenchResult({"dense": LATENCY, "bundle": LATENCY}, {"bundle": speedup}, {}, {}, {}))
    text = capsys.readouterr().out
    assert text.count("1234") == 2
    assert "bundle: 0.80x as fast as dense, 95 % 0.70 to 0.90: slower" in text
    assert ESCAPE not in text


def test_a_bench_against_another_model_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    other = f"folder/{'x' * 80}/other.onnx"
    result = BenchResult(
        {"dense": LATENCY, "bundle": LATENCY}, {"bundle": Speedup(0.8, (0.7, 0.9), "slower")}, {}, {}, {}
    )
    terminal.print_bench(result, other)
    text = capsys.readouterr().out
    assert f"bundle: 0.80x as fast as {other}, 95 % 0.70 to 0.90: slower" in text
    assert "dense" not in text


def test_a_finding_comes_with_its_remedy_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """However long: it is there to be copied."""
    remedy = "python -m pip install onnxruntime " + "x" * 100
    terminal.print_findings(
        [
            Finding("onnxruntime", ok=False, version=None, remedy=remedy, present=False),
            Finding("torch", ok=True, version="2.13"),
            Finding("trtexec", ok=True, version=None, present=False, means="no engine is built here"),
            Finding("governor", ok=False, version="powersave", remedy="set it", means="clocks [may] change"),
        ]
    )
    assert capsys.readouterr().out.splitlines() == [
        f"missing onnxruntime: -  ->  {remedy}",
        "ok      torch: 2.13",
        "absent  trtexec: no engine is built here",
        "wrong   governor: powersave; clocks [may] change  ->  set it",
    ]


def test_a_target_is_shown_with_every_source(capsys: pytest.CaptureFixture[str]) -> None:
    """Below the value that it is of; a value without one stands alone, and what is not known is a dash."""
    terminal.print_target(load_target("rpi4"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "name: rpi4"
    assert {"measured_here: no", "routes.fp16: none", "power_mode: -", "variants: none"} <= set(lines)
    found = lines.index("roofline.peak_gmacs: 29.0")
    assert lines[found + 1 : found + 5] == [
        "    58 GFLOPS in fp32 = 29 GMAC/s, four cores",
        "    source: cores x clock",
        "    unverified: nothing was run on a device",
        "roofline.bandwidth_gbs: 12.8",
    ]


def test_the_variants_of_a_target_are_shown_as_they_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_target(load_target("jetson-xavier-nx@jp4.6"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["variant: jp4.6", "variants: jetson-xavier-nx, jetson-xavier-nx@jp4.6"]


LONG = "backbone.stages.3.blocks.11.residual_branch.depthwise_separable_convolution_with_a_long_name.conv"


def test_the_report_ends_with_a_line_a_target(capsys: pytest.CaptureFixture[str]) -> None:
    """In 80 columns, however long the names are."""
    targets = {"x86-onnxruntime": target_report(), f"board-{LONG}": unmeasured_target()}
    terminal.print_report(Report(LONG, targets))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    start = next(index for index, line in enumerate(lines) if "compressed / dense" in line)
    table = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines[start:] if line.startswith("│")]
    assert table[0] == ["x86-onnxruntime", "1.25x", "0.500", "1.000", "1.000", "-0.5", "1 of 1 met"]
    assert table[1][1:] == ["-", "1.000", "1.000", "1.000", "", "0 of 1 met"]
    assert "".join(row[0] for row in table[1:]) == f"board-{LONG}"


def test_a_plan_fits_80_columns_with_its_front(capsys: pytest.CaptureFixture[str]) -> None:
    """Long names are folded and stay whole, figures are never cut."""
    structure = gkpd_structure((512, 512, 3, 1), (4, 4, 1, 3), 128)
    plan = Plan("cpu", (SitePlan(LONG, structure, "grouped-2-1", 10, 123_456_000, 0.125),), "measured", (), PARETO)
    survey = Survey((site(LONG, 8, 8),), (), 5000, 500_000_000)
    project = SimpleNamespace(survey=survey, name="net")
    terminal.print_plan(DryRun(cast("Project", project), (plan,)))
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert "".join(row[0] for row in cells[: -len(PARETO)]) == LONG
    assert cells[0][4:] == ["123.46M", "0.125"]
    assert cells[-len(PARETO) :] == [
        ["1.000", "1.000", "1.000", "0.000", "measured", ""],
        ["0.800", "0.625", "0.500", "0.125", "mixed", "the plan"],
        ["0.300", "0.250", "0.125", "0.500", "mixed", ""],
    ]


def test_a_stage_on_a_terminal_leaves_its_time_behind_and_no_colour_where_none_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    for variable, value in {"TERM": "xterm-256color", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(variable, value)
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with terminal_progress.progress() as tell:
        tell("plan", 1, 2)
        tell("measure", 0, 1)
    said = screen.getvalue()
    assert re.search(r"plan: \d+\.\d s", said)
    assert re.search(r"measure: \d+\.\d s", said)
    assert not re.search(r"\x1b\[(?:\d+;)*(?:3[0-8]|9[0-7])[;m]", said)


def test_printing_needs_no_pydantic() -> None:
    """Commands that read no configuration answer sooner without it."""
    code = "import sys, kronexport.terminal; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
