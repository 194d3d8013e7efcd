"""A matplotlib figure as SVG that lives in a page: text stays text, colours are the page's own, ids are few.

What is drawn in a colour of ``Ink`` takes the CSS variable of that name, so that one chart serves light and dark.
"""

import io
import re
import warnings
from enum import StrEnum
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import matplotlib as mpl

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_LEFT_OUT = {"metadata", "style", "clipPath"}
_DROPPED_ATTRIBUTES = {"clip-path", "width", "height", "version"}
_DECIMALS = re.compile(r"-?\d+\.\d{3,}")


class Ink(StrEnum):
    """Colours to draw in; each stands for a CSS variable of the page."""

    TEXT = "#010101"
    SOFT = "#020202"
    LINE = "#030303"
    DENSE = "#040404"
    COMPRESSED = "#050505"
    BAD = "#060606"


def inline_svg(figure: "Figure", name: str, label: str) -> str:
    """The figure as an ``svg`` element.

    Args:
        figure: drawn in colours of ``Ink`` alone.
        name: letters, digits and hyphens; its ids begin with it, so it is another for every figure of a page.
        label: what a screen reader says of it.
    """
    with (
        mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "kronexport"}),
        warnings.catch_warnings(),
        io.StringIO() as stream,
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # text is drawn in the reader's fonts
        figure.savefig(stream, format="svg", metadata=_NO_METADATA, transparent=True)
        root = ET.fromstring(stream.getvalue())  # noqa: S314  matplotlib wrote it
    _simplify(root, _short_ids(root, name))
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    return ET.tostring(root, encoding="unicode")


def _short_ids(root: ET.Element, name: str) -> dict[str, str]:
    """New names of the ids that something in the figure refers to; all others are dropped."""
    used = [value[1:] for element in root.iter() for key, value in element.items() if _local(key) == "href"]
    return {old: f"{name}-{index}" for index, old in enumerate(dict.fromkeys(used))}


def _simplify(element: ET.Element, ids: dict[str, str]) -> None:
    """In place: plain names instead of namespaces, two decimals, no ids but ``ids``, nothing that is not drawn."""
    element.tag = _local(element.tag)
    kept = {}
    for key, value in element.items():
        attribute = _local(key)
        if attribute == "id":
            if value in ids:
                kept["id"] = ids[value]
        elif attribute == "href":
            kept["href"] = f"#{ids[value[1:]]}"
        elif attribute == "style":
            kept["style"] = _page_style(value)
        elif attribute not in _DROPPED_ATTRIBUTES or element.tag == "rect":
            kept[attribute] = _DECIMALS.sub(lambda found: f"{float(found[0]):.2f}", value)
    element.attrib = {key: value for key, value in kept.items() if value}
    element.text = element.text if element.tag == "text" else None
    element.tail = None
    for child in list(element):
        if _local(child.tag) in _LEFT_OUT:
            element.remove(child)
        else:
            _simplify(child, ids)
            if child.tag in {"g", "defs"} and not len(child):
                element.remove(child)


def _page_style(style: str) -> str:
    """The declarations with the page's font and colours."""
    kept = []
    for name, _, value in (declaration.strip().partition(":") for declaration in style.split(";")):
        if name == "font":
            size = re.search(r"[\d.]+px", value)
            kept.append(f"font-size:{size[0] if size else '10px'}")
        elif name and name not in {"font-family", "stroke-linejoin", "stroke-linecap"}:
            kept.append(f"{name}:{_COLOURS.get(value.strip(), value.strip())}")
    return ";".join(kept)


_COLOURS = {ink.value: f"var(--{ink.name.lower()})" for ink in Ink}


def _local(name: str) -> str:
    return name.rpartition("}")[2]
