import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kronexport.records import BatchFigures, Check, GoalResult, Report, Speedup
from kronexport.ship.report_html import render_report_html, write_report_html
from kronexport.ship.report_json import read_report_json, write_report_json
from tests.ship.samples import HOSTILE_SITE, LAYER, report, target_report, unmeasured_target

VOID_TAGS = {"meta", "br", "link", "img", "hr", "input"}


class Balance(HTMLParser):
    """Notes every tag that is closed out of turn, and every reference to elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.tags: set[str] = set()
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [f"{name}={value}" for name, value in attrs if name in {"src", "href", "xlink:href"}]
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def parsed(html: str) -> Balance:
    balance = Balance()
    balance.feed(html)
    balance.close()
    return balance


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_page_is_well_formed_and_refers_to_nothing_outside() -> None:
    html = render_report_html(Report("m", {"a": target_report(), "b": unmeasured_target()}))
    page = parsed(html)
    assert page.wrong == []
    assert page.open == []
    assert all(reference.startswith("href=#") for reference in page.references)
    assert not page.tags & {"link", "img", "iframe"}
    assert "://" not in html
    assert "@import" not in html
    assert "url(" not in html


def test_page_holds_the_figures_of_the_report() -> None:
    text = text_of(render_report_html(report()))
    for figure in (
        "269,722",
        "134,861",
        "0.500x",
        "40,813,184",
        "1,083,412",
        "0.7656",
        "0.9375",
        "1,234",
        "7,340,032",
        "9,437,184",
        "91.25",
        "90.75",
        "-0.5",
        "1.250x its speed (95 % interval 1.200 to 1.300)",
        "params&lt;=0.6 0.55 met",
        "portable factorized 1e-06 2e-07 1e-05 passed",
        "factorized dense 0.5 0.125 - approximation",
        "- - - 0.0312 gkpd 16x16x3x1 * 4x4x1x3 8 folded 4,194,304 1,048,576 13,056 6,528",
        "stem grouped convolution",
        "0.8 0.625 0.5 0.125 mixed the plan",
        "1 1 1 0 measured",
        "layers.us no profiling run",
        "Example CPU",
        "clocks.governor unknown",
        "closed loop",
        "factors are fitted to the weights alone",
        "kronexport build --config OUT/config.toml",
        "python x86-onnxruntime/run.py check",
    ):
        assert figure in text, figure


def test_the_first_command_on_the_device_is_one_that_works() -> None:
    """TensorRT's engine is none of run.py's: it is built there, or runs in trtexec."""
    engine = target_report(environment={"runtime": "tensorrt"})
    text = text_of(render_report_html(Report("m", {"cpu": target_report(), "nx": unmeasured_target(), "orin": engine})))
    assert "python cpu/run.py check ./nx/build_engine.sh trtexec --loadEngine=orin/model.engine " in text


def test_a_missed_goal_is_not_shown_as_reached() -> None:
    text = text_of(render_report_html(report(goals=(GoalResult("params<=90k", 90.004, met=False),))))
    assert "params&lt;=90k 90.004 missed" in text


def test_the_page_says_which_layers_the_chart_has() -> None:
    """Where some have no time, and where none has both."""
    timed, half = replace(LAYER, dense_us=20.0, us=10.0), replace(LAYER, us=10.0)
    some = text_of(render_report_html(report(layers=(timed, half, LAYER))))
    assert "The chart is of 1 of 3 layers; the others were not timed. The error" in some
    none = text_of(render_report_html(report(layers=(half,))))
    assert "timed above. No layer was timed both dense and compressed; the chart is of MACs. The error" in none
    assert "The chart is of" not in text_of(render_report_html(report(layers=(timed,))))


def test_a_layer_that_stays_dense_says_why() -> None:
    """In a table of its own, which is not there where nobody knows."""
    dense = replace(LAYER, site="head", method="dense", reason="dense is the fastest")
    assert "Layers that stay dense Site Reason head dense is the fastest" in text_of(
        render_report_html(report(layers=(LAYER, dense)))
    )
    assert "Layers that stay dense" not in text_of(render_report_html(report()))


def test_names_given_by_the_user_cannot_become_markup() -> None:
    html = render_report_html(Report("<script>m</script>", {"a": target_report()}))
    assert HOSTILE_SITE not in html
    assert "layer1.&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert html.count("<script>") == 1  # the page's own


def test_what_was_not_measured_is_said_with_its_reason() -> None:
    text = text_of(render_report_html(Report("m", {"jetson": unmeasured_target()})))
    assert "Speed not measured: no device." in text
    assert "Latency p50 (ms) not measured: no device not measured: no device -" in text
    assert "Accuracy (evaluator&#39;s units) not measured: no device" in text
    assert "Figure Reason dense.latency_ms no device" in text
    assert "not measured: not measured" not in text
    assert "Goals: latency&lt;=0.5 not measured." in text
    assert "No check was run; not run: compiled." in text


@pytest.mark.parametrize(
    ("speedup", "sentence"),
    [
        (Speedup(1.5, (1.4, 1.6), "faster"), "Faster than dense: 1.500x"),
        (Speedup(0.5, (0.4, 0.6), "slower"), "Slower than dense: 0.500x"),
        (Speedup(1.01, (0.9, 1.1), "within noise"), "No difference in speed beyond the noise: 1.010x"),
    ],
)
def test_verdict_on_speed_is_said_in_words(speedup: Speedup, sentence: str) -> None:
    assert sentence in text_of(render_report_html(report(speedup=speedup)))


def test_failed_check_and_missed_goal_are_said_in_the_verdict() -> None:
    checks = (Check("lowered", "portable", 1.0, 0.5, 1e-5, passed=False),)
    text = text_of(render_report_html(report(verification=checks, goals=(GoalResult("macs<=0.5", 0.7, met=False),))))
    assert "Verification FAILED: lowered." in text
    assert "macs&lt;=0.5 missed" in text


def test_a_verdict_in_one_sentence_comes_first_for_every_target() -> None:
    text = text_of(render_report_html(Report("m", {"a": target_report(), "b": unmeasured_target()})))
    first = text.index("a : 1.25x as fast as dense: 0.500x the parameters, 1.000x the MACs, accuracy 91.25 to 90.75.")
    assert first < text.index("b : Speed not measured: 1.000x the parameters") < text.index("a (fp32)")


def test_each_size_of_a_dynamic_batch_has_its_row() -> None:
    text = text_of(render_report_html(report(dynamic_batch=(BatchFigures(4, 8.5, 4.25, 2.0),))))
    assert "Samples Dense ms Compressed ms Speed-up 4 8.5 4.25 2" in text


def test_convs_that_int8_left_in_float_have_a_column_of_their_own() -> None:
    plain = render_report_html(report())
    mixed = render_report_html(report(layers=(replace(target_report().layers[0], float_steps=(0, 2)),)))
    assert "In float" not in plain
    assert "In float" in mixed
    assert "<td>0, 2</td>" in mixed


def test_a_large_report_stays_small() -> None:
    """ResNet-50 has 54 layers: four targets of it are below a megabyte."""
    row = replace(target_report().layers[0], dense_us=20.0, us=10.0)
    layers = tuple(replace(row, site=f"layer{index}.conv") for index in range(54))
    assert len(render_report_html(report(layers=layers)).encode()) < 250_000


def test_page_is_the_same_when_made_again_from_report_json(tmp_path: Path) -> None:
    write_report_html(report(), tmp_path / "first.html")
    write_report_json(report(), tmp_path / "report.json")
    write_report_html(read_report_json(tmp_path / "report.json"), tmp_path / "second.html")
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()
