"""report.html in a real browser: no error, no request, the figures of report.json, sorting, filtering, paper, phone."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kronexport.records import LayerFigures, Report
from kronexport.ship.report_html import write_report_html
from kronexport.ship.report_json import write_report_json
from kronexport.ship.report_view import number
from tests.browser import NAMES, Browser, browser, find_browser
from tests.ship.samples import target_report, unmeasured_target

pytestmark = pytest.mark.skipif(find_browser() is None, reason=f"none of {', '.join(NAMES)} is installed")

ENTER, SPACE = ("Enter", 13), (" ", 32)
PHONE = 360
SITES = 54
LONG_NAME = "backbone.stages.3.blocks.11.residual_branch.depthwise_separable_convolution_with_a_long_name.conv"


def layer(index: int) -> LayerFigures:
    """One row; no two figures of a table are alike, and their order as text is not that as numbers."""
    site = LONG_NAME if index == 0 else f"layer{1 + index % 4}.{index}.conv{1 + index % 3}"
    params, dense = 900 * (1 + index * 7 % SITES), 101.5 * (1 + index)
    return LayerFigures(
        site=site,
        method="dense" if index % 5 == 0 else "gkpd",
        structure="512x512x3x3" if index % 5 == 0 else "16x16x3x1 * 32x32x1x3",
        ranks=() if index % 5 == 0 else (8,),
        lowering="dense" if index % 5 == 0 else "grouped-2-1",
        params=params,
        macs=params * 784,
        rel_error=0.01 * index,
        dense_us=None if index == 3 else dense,
        us=None if index == 3 else dense / (1 + index % 4),
        dense_params=params * 3,
        dense_macs=params * 2352,
        reason="dense is the fastest: the best other form (timed) runs 0.93x as fast" if index % 5 == 0 else None,
    )


def large_report() -> Report:
    """As of a ResNet-50: 54 layers, timed, and a target that was not measured."""
    reasons = {"layers.dense_us": "not timed", "layers.us": "not timed"}
    timed = target_report(layers=tuple(map(layer, range(SITES))), unmeasured=reasons)
    return Report("sample:resnet50", {"x86-onnxruntime": timed, "jetson-orin-nano": unmeasured_target()})


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The browser, with the large report open."""
    path = find_browser()
    assert path is not None
    with browser(path, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report_html(large_report(), folder / "report.html")
    write_report_json(large_report(), folder / "report.json")
    return folder


@pytest.fixture
def opened(page: Browser, written: Path) -> Browser:
    page.open(written / "report.html")
    return page


def rows(page: Browser, table: str) -> list[list[str]]:
    """The text of every row that is shown, cell by cell."""
    found: list[list[str]] = page.evaluate(
        f"[...document.getElementById('{table}').tBodies[0].rows].filter((row) => row.offsetParent)"
        ".map((row) => [...row.cells].map((cell) => cell.innerText.trim()))"
    )
    return found


def values(page: Browser, table: str) -> list[list[float]]:
    """The exact figures of every row."""
    found: list[list[float]] = page.evaluate(
        f"[...document.getElementById('{table}').tBodies[0].rows]"
        ".map((row) => [...row.querySelectorAll('data')].map((data) => Number(data.value)))"
    )
    return found


def head(index: int) -> str:
    return f"document.querySelectorAll('#t1-layers thead button')[{index}]"


def test_the_page_loads_without_an_error_and_without_a_request(opened: Browser, written: Path) -> None:
    """The file itself is all that is asked for; its policy refuses nothing, since there is nothing to refuse."""
    requests = [e["params"]["request"]["url"] for e in opened.events if e.get("method") == "Network.requestWillBeSent"]
    assert set(requests) <= {(written / "report.html").as_uri()}
    told = {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"}
    assert [event for event in opened.events if event.get("method") in told] == []
    assert opened.evaluate("performance.getEntriesByType('resource').length") == 0


def test_every_figure_of_the_tables_is_that_of_report_json(opened: Browser, written: Path) -> None:
    """Exactly in the ``data`` element, and in the digits that are shown."""
    targets: dict[str, Any] = json.loads((written / "report.json").read_text())["targets"]
    for index, target in enumerate(targets.values(), start=1):
        expected = {
            "comparison": comparison_of(target),
            "layers": [layer_of(row) for row in target["layers"]],
            "verification": [[row["max_abs"], row["rel_l2"], row["tolerance"]] for row in target["verification"]],
            "pareto": [[row[key] for key in ("latency", "macs", "params", "error")] for row in target["pareto"]],
            "goals": [[row["value"]] for row in target["goals"]],
        }
        for table, wanted in expected.items():
            plain = [[value for value in row if value is not None] for row in wanted]
            assert values(opened, f"t{index}-{table}") == plain, table
            shown = rows(opened, f"t{index}-{table}")
            for row, cells in zip(plain, shown, strict=True):
                assert [text for text in cells if text in set(map(number, row))] == list(map(number, row)), table
    skipped = [[row["site"], row["reason"]] for row in targets["x86-onnxruntime"]["skipped"]]
    assert rows(opened, "t1-skipped") == skipped


def comparison_of(target: dict[str, Any]) -> list[list[float | None]]:
    """Both networks' figures in the order of the table."""
    sides = target["dense"], target["compressed"]
    latencies = [side["latency_ms"] or {} for side in sides]
    plain = [[side[key] for side in sides] for key in ("params", "macs", "bytes")]
    timed = [[one.get(key) for one in latencies] for key in ("p50", "p90", "p95", "p99", "min", "mean", "std", "n")]
    kept = timed if latencies[0] else timed[:6]
    memory = ("weight_bytes", "activation_bytes", "peak_memory_bytes", "build_peak_memory_bytes", "accuracy")
    return [*plain, *kept, *([side[key] for side in sides] for key in memory)]


def layer_of(row: dict[str, Any]) -> list[float | None]:
    speedup = row["dense_us"] / row["us"] if row["us"] else None
    others = (row[key] for key in ("rel_error", "dense_macs", "macs", "dense_params", "params"))
    return [row["dense_us"], row["us"], speedup, *others]


def test_a_click_sorts_by_number_and_another_the_other_way(opened: Browser) -> None:
    """The layer without a time comes last both ways; the heading says which way it is."""
    opened.click(head(2))
    ascending = [row[2] for row in rows(opened, "t1-layers")]
    assert ascending[-1] == "-"
    numbers = [float(text.replace(",", "")) for text in ascending[:-1]]
    assert numbers == sorted(numbers)
    assert opened.evaluate(f"{head(2)}.parentElement.getAttribute('aria-sort')") == "ascending"
    opened.click(head(2))
    descending = [row[2] for row in rows(opened, "t1-layers")]
    assert descending == [*reversed(ascending[:-1]), "-"]
    opened.click(head(0))
    marks = opened.evaluate("[...document.querySelectorAll('#t1-layers thead th')].map((e) => e.ariaSort)")
    assert (marks[0], marks[2]) == ("ascending", "none")


@pytest.mark.parametrize("key", [ENTER, SPACE], ids=["enter", "space"])
def test_the_keyboard_sorts(opened: Browser, key: tuple[str, int]) -> None:
    opened.evaluate(f"{head(12)}.focus()")
    opened.press(*key)
    numbers = [int(row[12].replace(",", "")) for row in rows(opened, "t1-layers")]
    assert numbers == sorted(numbers)
    assert numbers[0] < numbers[-1]


def test_typing_filters_the_layers(opened: Browser) -> None:
    """By all words, in any column; the number that is left is said aloud."""
    opened.click("document.getElementById('t1-filter')")
    opened.type_text("LAYER2 gkpd")
    shown = rows(opened, "t1-layers")
    assert shown
    assert all("layer2" in row[0] and row[5] == "gkpd" for row in shown)
    wanted = [one for one in map(layer, range(SITES)) if "layer2" in one.site and one.method == "gkpd"]
    assert len(shown) == len(wanted)
    assert opened.evaluate("document.querySelector('[role=status]').innerText") == f"{len(wanted)} of {SITES} layers"


def test_the_tab_key_reaches_the_filter_and_the_headings(opened: Browser) -> None:
    """In the order in which they stand on the page."""
    reached = []
    for _ in range(40):
        opened.press("Tab", 9)
        reached.append(opened.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert reached.index("t1-filter") < reached.index("Site") < reached.index("Dense µs")


@pytest.mark.parametrize("width", [PHONE, 700, 1280])
def test_the_page_never_scrolls_sideways(opened: Browser, width: int) -> None:
    """Wide tables scroll in a box of their own."""
    opened.resize(width)
    try:
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
    finally:
        opened.command("Emulation.clearDeviceMetricsOverride")


def test_it_prints(opened: Browser) -> None:
    assert opened.pdf().startswith(b"%PDF-")


def test_charts_and_text_take_the_colours_of_the_scheme(opened: Browser) -> None:
    """Dark on light, light on dark; text of a chart as that of the page."""
    for scheme, dark_page in (("light", False), ("dark", True)):
        opened.prefer(scheme)
        page, text = opened.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('svg text')).fill]"
        )
        assert (brightness(page) < 0.5) is dark_page
        assert (brightness(text) > 0.5) is dark_page
    opened.prefer("light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(opened: Browser, scheme: str) -> None:
    """At least 4.5 to 1 (WCAG 2.2, 1.4.3), and 3 to 1 for what is drawn (1.4.11)."""
    opened.prefer(scheme)
    colours = opened.evaluate(
        "Object.fromEntries(['page', 'panel', 'text', 'soft', 'good', 'bad', 'compressed', 'dense'].map((name) =>"
        " [name, getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()]))"
    )
    opened.prefer("light")
    for name, least in {"text": 4.5, "soft": 4.5, "good": 4.5, "bad": 4.5, "compressed": 4.5, "dense": 3.0}.items():
        for ground in ("page", "panel"):
            one, other = sorted((luminance(colours[name]), luminance(colours[ground])))
            assert (other + 0.05) / (one + 0.05) >= least, (name, ground)


def test_headings_are_in_order_and_ids_are_unique(opened: Browser) -> None:
    levels = opened.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((e) => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = opened.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    assert opened.evaluate("document.querySelectorAll('thead th:not([scope])').length") == 0


def test_names_given_by_the_user_run_nothing(page: Browser, tmp_path: Path) -> None:
    hostile = replace(layer(1), site="</script><script>document.title = 'taken'</script><img src=x onerror=alert(1)>")
    write_report_html(Report("<script>1</script>", {"a": target_report(layers=(hostile,))}), tmp_path / "report.html")
    page.open(tmp_path / "report.html")
    assert page.evaluate("document.title") == "kronexport: <script>1</script>"
    assert page.evaluate("document.querySelectorAll('img').length + document.scripts.length") == 1


def brightness(colour: str) -> float:
    """Of ``rgb(r, g, b)``: 0 to 1."""
    return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) / (3 * 255)


def luminance(colour: str) -> float:
    """Of ``#rrggbb``, as WCAG defines it."""
    parts = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
