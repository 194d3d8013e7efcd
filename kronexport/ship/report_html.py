"""report.html: the report for a reader, one file without a single outside reference.

Everything in it comes from the ``Report``, so that it can be made again from report.json at any time. Its policy lets
the browser load nothing and run no script but the page's own.
"""

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kronexport.files import write_text_aside
from kronexport.ship import report_charts, report_view

if TYPE_CHECKING:
    from kronexport.records import Report

_TEMPLATES = Path(__file__).parent / "templates"


def render_report_html(report: "Report") -> str:
    """The text of report.html: styles, charts and script inline, every name escaped, light and dark, printable."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _asset("report.js")
    return environment.get_template("report.html.j2").render(
        report=report,
        view=report_view,
        charts=report_charts,
        style=_asset("report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def write_report_html(report: "Report", path: Path) -> None:
    """Writes report.html, all or nothing. Raises ``KronexportError`` if the disk is full."""
    write_text_aside(path, render_report_html(report))


def _asset(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
