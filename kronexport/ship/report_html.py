"""report.html: the report for a reader, one file without a single outside reference.

Everything in it comes from the ``Report``, so that it can be made again from report.json at any time.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kronexport.files import write_text_aside
from kronexport.ship import report_view

if TYPE_CHECKING:
    from kronexport.records import Report

_TEMPLATES = Path(__file__).parent / "templates"


def render_report_html(report: "Report") -> str:
    """The text of report.html: styles and charts inline, every name escaped, light and dark, printable."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(report=report, view=report_view)


def write_report_html(report: "Report", path: Path) -> None:
    """Writes report.html, all or nothing. Raises ``KronexportError`` if the disk is full."""
    write_text_aside(path, render_report_html(report))
