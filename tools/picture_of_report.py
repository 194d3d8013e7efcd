"""Makes docs/report.png: the top of a real report.html, as a browser shows it.

    python tools/picture_of_report.py OUT/report.html docs/report.png

OUT is a build's output, such as that of ``make demo``. It needs a Chromium, driven as the tests of the page drive it.
"""

import base64
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from kronexport.errors import MissingRuntimeError
from kronexport.files import atomic_write
from tests.browser import browser, find_browser

WIDTH, HEIGHT = 1200, 1500
"""In CSS pixels, and of the picture."""

COLOURS = 128
"""A page of few colours: a palette makes the file a third as large."""


def main(page: Path, picture: Path) -> None:
    """Writes the picture; MissingRuntimeError where there is no browser."""
    path = find_browser()
    if path is None:
        raise MissingRuntimeError("chromium: not found in PATH; apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile, browser(path, Path(profile)) as window:
        window.resize(WIDTH, HEIGHT)
        window.prefer("light")
        window.open(page.resolve())
        shot = window.command("Page.captureScreenshot", format="png")["data"]
    image = Image.open(io.BytesIO(base64.b64decode(shot))).convert("RGB").quantize(COLOURS)
    with atomic_write(picture) as aside:
        image.save(aside, "PNG", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
