"""The charts: text as text, the page's colours, few ids, and nothing where nothing is to be drawn."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from kronexport.records import Check, TargetReport
from kronexport.ship.report_charts import budget_chart, front_chart, latency_chart, layers_chart, shares_chart
from tests.ship.samples import LATENCY, LAYER, PARETO, figures, target_report, unmeasured_target

Chart = Callable[[TargetReport, str], str | None]
CHARTS: tuple[Chart, ...] = (budget_chart, front_chart, latency_chart, layers_chart, shares_chart)


def drawn(chart: Chart, target: TargetReport, name: str = "t1-chart") -> str:
    svg = chart(target, name)
    assert svg is not None
    return svg


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


@pytest.mark.parametrize("chart", CHARTS)
def test_a_chart_takes_its_colours_and_font_from_the_page(chart: Chart) -> None:
    """No colour of its own, no font, no namespace, no reference outside, and a label for who cannot see it."""
    svg = drawn(chart, target_report())
    assert not re.search(r"#[0-9a-f]{6}", svg)
    assert "var(--text)" in svg
    assert "font-family" not in svg
    assert "://" not in svg
    assert "url(" not in svg
    assert 'role="img" aria-label="' in svg
    assert all(name.startswith("t1-chart-") for name in re.findall(r' id="([^"]*)"', svg))
    assert len(svg) < 20_000
    assert svg == drawn(chart, target_report())


def test_latency_is_drawn_from_the_fastest_to_p99() -> None:
    assert {"dense", "compressed", "p50 0.7656"} <= set(texts(drawn(latency_chart, target_report())))
    assert latency_chart(unmeasured_target(), "x") is None


def test_shares_are_percent_of_dense() -> None:
    """Of what was measured of both."""
    assert texts(drawn(shares_chart, target_report())).count("100.0 %") == 4
    assert "50.0 %" in texts(drawn(shares_chart, target_report()))
    assert "peak memory" not in texts(drawn(shares_chart, unmeasured_target()))


def test_layers_are_drawn_by_time_where_there_is_one() -> None:
    """Else by MACs; of a long name the end tells them apart, and a dollar is a dollar."""
    timed = target_report(layers=(LAYER, replace(LAYER, site="a$b$." + "x" * 40, dense_us=20.0, us=10.0)))
    assert "microseconds" in texts(drawn(layers_chart, timed))
    assert "…" + "x" * 29 in texts(drawn(layers_chart, timed))
    assert "a$b$" in texts(drawn(layers_chart, target_report(layers=(replace(LAYER, site="a$b$"),))))
    assert "MACs" in texts(drawn(layers_chart, target_report()))
    assert layers_chart(target_report(layers=(replace(LAYER, dense_macs=None),)), "x") is None


def test_layers_of_which_no_dense_time_is_known_are_drawn_by_macs() -> None:
    """All of them, and not those alone that have a time."""
    svg = drawn(layers_chart, target_report(layers=(replace(LAYER, us=10.0), replace(LAYER, site="second"))))
    assert {"MACs", "second"} <= set(texts(svg))


def test_any_name_of_a_layer_can_be_drawn() -> None:
    """A control character is none of XML's, and a font of the page has what matplotlib's lacks."""
    names = "a\x00b\x1bc\nd", "\N{CJK UNIFIED IDEOGRAPH-5377}\N{CJK UNIFIED IDEOGRAPH-79EF}"
    shown = texts(drawn(layers_chart, target_report(layers=tuple(replace(LAYER, site=name) for name in names))))
    assert {"a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c\N{REPLACEMENT CHARACTER}d", names[1]} <= set(shown)


def test_the_budget_shows_every_stage_that_was_run_and_failures_in_red() -> None:
    """A difference of nothing has a place on the logarithmic axis, too."""
    failed = Check("lowered", "portable", 9.0, 0.9, 1e-5, passed=False)
    exact = Check("simplified", "lowered", 0.0, 0.0, 1e-5, passed=True)
    svg = drawn(budget_chart, target_report(verification=(exact, failed)))
    assert {"lowered", "simplified", "0", "0.9"} <= set(texts(svg))
    assert "var(--bad)" in svg
    assert "var(--bad)" not in drawn(budget_chart, target_report())
    assert budget_chart(unmeasured_target(), "x") is None


def test_the_front_is_drawn_by_time_where_there_is_one() -> None:
    """By MACs where nothing was timed; the plan stands out."""
    svg = drawn(front_chart, target_report())
    assert "the plan" in texts(svg)
    assert "time of the layers that can be factorized, percent of dense" in texts(svg)
    assert svg.count("<use") == len(PARETO)
    untimed = target_report(pareto=tuple(replace(point, latency=None) for point in PARETO))
    assert "MACs, percent of dense" in texts(drawn(front_chart, untimed))
    assert front_chart(target_report(pareto=()), "x") is None


@pytest.mark.parametrize(("p50", "is_at_the_end"), [(0.5, False), (1.4, True)])
def test_a_label_near_the_end_of_the_axis_stands_at_its_left(p50: float, is_at_the_end: bool) -> None:  # noqa: FBT001
    stats = replace(LATENCY, p50=p50)
    latency = drawn(latency_chart, target_report(dense=figures(latency_ms=stats), compressed=figures(latency_ms=stats)))
    points = (replace(PARETO[1], latency=p50 / 1.5), PARETO[2])
    front = drawn(front_chart, target_report(pareto=points))
    for svg, label in ((latency, f"p50 {p50}"), (front, "the plan")):
        (style, *_) = re.findall(rf'<text style="([^"]*)"[^>]*>{label}</text>', svg)
        assert ("text-anchor:end" in style) is is_at_the_end


def test_one_side_that_was_timed_is_drawn_alone() -> None:
    svg = drawn(latency_chart, target_report(dense=figures(latency_ms=None)))
    assert "dense" not in texts(svg)
