"""How large report pages are, how fast a browser opens them, and whether it has anything to say of them.

    python -m benchmarks.report_page OUT/report.html ...

"opens" is from the navigation's start to the end of its load event, by the clock of a headless Chromium; the page is
opened ten times in one tab, and messages and requests are those of all ten.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.table import head, line
from kronexport.errors import MissingRuntimeError
from tests.browser import Browser, browser, find_browser

COLUMNS = ("report", "sortable rows", "bytes", "opens ms, median", "slowest", "console messages", "requests")
OPENINGS = 10
QUESTIONS = 1000
TOLD = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
NAVIGATION = "JSON.stringify(performance.getEntriesByType('navigation')[0])"


def row(window: Browser, page: Path) -> list[str]:
    """One page's line."""
    took, messages, requests = [], 0, 0
    for _ in range(OPENINGS):
        window.open(page.resolve())
        # loadEventFired is sent before the event's end is noted
        ends = (json.loads(window.evaluate(NAVIGATION))["loadEventEnd"] for _ in range(QUESTIONS))
        took.append(next(end for end in ends if end))
        messages += sum(event["method"] in TOLD for event in window.events)
        requests += sum(event["method"] == "Network.requestWillBeSent" for event in window.events) - 1
    rows = window.evaluate("document.querySelectorAll('table.sortable tbody tr').length")
    times = (f"{median(took):.0f}", f"{max(took):.0f}")
    return [str(page), str(rows), f"{page.stat().st_size:,}", *times, str(messages), str(requests)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    args = parser.parse_args()
    path = find_browser()
    if path is None:
        raise MissingRuntimeError("chromium: not found in PATH; apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile, browser(path, Path(profile)) as window:
        version = window.command("Browser.getVersion")["product"]
        print(f"{version}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n\n{head(COLUMNS)}")
        for page in args.pages:
            print(line(row(window, page)), flush=True)


if __name__ == "__main__":
    main()
