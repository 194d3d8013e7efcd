"""What people read: progress on stderr, tables on stdout, no colour codes into a pipe."""

import io
import sys

import pytest

from kronexport import terminal
from kronexport.backends.doctor import Finding
from kronexport.backends.profile import load_target
from kronexport.measure.latency import BenchResult
from kronexport.records import Report, Speedup
from tests.ship.samples import LATENCY, report, target_report, unmeasured_target

ESCAPE = "\x1b"


def test_progress_tells_each_stage_once_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Into a pipe: a line a stage, no matter how often it moves on, and nothing on stdout."""
    with terminal.progress() as tell:
        for done in range(3):
            tell("plan", done, 3)
        tell("measure", 0, 1)
    said = capsys.readouterr()
    assert said.err.split() == ["plan", "measure"]
    assert said.out == ""
    assert ESCAPE not in said.err


def test_a_stage_that_comes_again_is_told_again(capsys: pytest.CaptureFixture[str]) -> None:
    """Of several targets each walks the whole line."""
    with terminal.progress() as tell:
        for stage in ("plan", "measure", "plan"):
            tell(stage, 0, 1)
    assert capsys.readouterr().err.split() == ["plan", "measure", "plan"]


def test_a_terminal_gets_a_moving_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is left clean behind it."""

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with terminal.progress() as tell:
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
        "-0.50",
        "speed-up 1.25x, 95 % 1.20 to 1.30: faster",
        "goal params<=0.6: met, reached 0.55",
        "factorized against dense: 1.2e-01 (an approximation)",
        "portable against factorized: 2.0e-07 (at most 1e-05)",
    ):
        assert expected in text
    assert ESCAPE not in text
    assert max(map(len, text.splitlines())) <= 80


def test_what_was_not_measured_is_said_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_report(Report("net", {"jetson-orin-nano": unmeasured_target()}))
    text = capsys.readouterr().out
    assert "speed: not measured (no device)" in text
    assert "goal latency<=0.5: not measured" in text
    assert text.count("not measured") >= 2 * 3


def test_a_missed_goal_stands_out(capsys: pytest.CaptureFixture[str]) -> None:
    missed = target_report().goals[0]
    terminal.print_report(report(goals=(type(missed)(missed.expr, 0.7, met=False),)))
    assert "goal params<=0.6: MISSED, reached 0.7" in capsys.readouterr().out


def test_a_bench_shows_every_model_and_the_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    speedup = Speedup(0.8, (0.7, 0.9), "slower")
    terminal.print_bench(BenchResult({"dense": LATENCY, "bundle": LATENCY}, {"bundle": speedup}, {}, {}, {}))
    text = capsys.readouterr().out
    assert text.count("1234") == 2
    assert "bundle: 0.80x as fast as dense, 95 % 0.70 to 0.90: slower" in text
    assert ESCAPE not in text


def test_a_finding_comes_with_its_remedy_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """However long: it is there to be copied."""
    remedy = "python -m pip install onnxruntime " + "x" * 100
    terminal.print_findings(
        [Finding("onnxruntime", ok=False, version=None, remedy=remedy), Finding("torch", ok=True, version="2.13")]
    )
    assert capsys.readouterr().out.splitlines() == [f"missing onnxruntime: -  ->  {remedy}", "ok      torch: 2.13"]


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
