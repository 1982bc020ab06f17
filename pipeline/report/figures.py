"""How figures look, and their bytes: the same every time.

Colours are Okabe and Ito's, told apart by the colour-blind, and every method has its own marker and line as well.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.figure import Figure

from pipeline.statistics.accuracy import CEILING, FLOOR, MAIN

STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "pdf.fonttype": 42,
}
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
MARKERS = ("s", "^", "v", "D", "P", "X", "<", ">")
LINES = ("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
FORMATS = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


@dataclass(frozen=True)
class Style:
    """How a method looks in every figure."""

    title: str
    colour: str
    marker: str
    line: str | tuple


def styles(titles: Mapping[str, str]) -> dict[str, Style]:
    """A style per method: fixed for SAMerging, zero-shot and the experts, in the order of `titles` for the others."""
    found = {
        FLOOR: Style(titles.get(FLOOR, FLOOR), "#777777", "|", (0, (1, 2))),
        CEILING: Style(titles.get(CEILING, CEILING), "#777777", "*", (0, (4, 2))),
        MAIN: Style(titles[MAIN], "#D55E00", "o", "-"),
    }
    for index, name in enumerate(name for name in titles if name not in found):
        cycle = (options[index % len(options)] for options in (COLOURS, MARKERS, LINES))
        found[name] = Style(titles[name], *cycle)
    return {name: found[name] for name in titles}


def render(figure: Figure, kind: str, name: str, dpi: int) -> bytes:
    """The file of a figure, without dates or versions; ids inside an SVG begin with `name`, for pages with many."""
    return _svg(figure, name, dpi).encode() if kind == "svg" else _saved(figure, kind, name, dpi)


def inline(figure: Figure, name: str, dpi: int) -> str:
    """The figure as an <svg> element for pages light and dark: no background, black is the colour of the text."""
    svg = re.sub(r"(?s)<metadata>.*?</metadata>|<!--.*?-->", "", _svg(figure, name, dpi, transparent=True))
    # Matplotlib leaves out a fill that is black, SVG's default, and writes every stroke.
    element = svg[svg.index("<svg") :].replace("#000000", "currentColor")
    return element.replace("<svg ", '<svg fill="currentColor" ', 1)


def _svg(figure: Figure, name: str, dpi: int, transparent: bool = False) -> str:
    text = _saved(figure, "svg", name, dpi, transparent).decode()
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)


def _saved(figure: Figure, kind: str, name: str, dpi: int, transparent: bool = False) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=FORMATS[kind], transparent=transparent)
    return buffer.getvalue()
