"""The look of figures, and their bytes: the same every time.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; every method has its own marker and line too.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
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
FRAMED = STYLE | {"axes.spines.top": True, "axes.spines.right": True}
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
    looks = {
        FLOOR: Style(titles.get(FLOOR, FLOOR), "#777777", "|", (0, (1, 2))),
        CEILING: Style(titles.get(CEILING, CEILING), "#777777", "*", (0, (4, 2))),
        MAIN: Style(titles[MAIN], "#D55E00", "o", "-"),
    }
    for index, name in enumerate(name for name in titles if name not in looks):
        colour, marker, line = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)], LINES[index % len(LINES)]
        looks[name] = Style(titles[name], colour, marker, line)
    return {name: looks[name] for name in titles}


def single_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty figure, in inches, and its only axes."""
    figure = Figure((width, height), layout="constrained")
    return figure, figure.add_subplot()


def draw_heat_map(axes: Axes, values: np.ndarray, colours: str, label: str, low: float, high: float | None) -> None:
    """Draw `values` [rows, columns] as coloured cells with a labelled colour bar; high: None for their maximum."""
    image = axes.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="none")
    axes.tick_params(length=0)
    axes.figure.colorbar(image, ax=axes, label=label, pad=0.02)


def render_figure(figure: Figure, kind: str, name: str, dpi: int) -> bytes:
    """Return a figure's file, without dates or versions; ids in an SVG begin with `name`, so a page can hold many."""
    return _svg(figure, name, dpi).encode() if kind == "svg" else _save(figure, kind, name, dpi)


def inline(figure: Figure, name: str, dpi: int) -> str:
    """The figure as an <svg> element for pages light and dark: no background, black is the colour of the text."""
    svg = re.sub(r"(?s)<metadata>.*?</metadata>|<!--.*?-->", "", _svg(figure, name, dpi, transparent=True))
    # Matplotlib leaves out a fill that is black, SVG's default, and writes every stroke.
    element = svg[svg.index("<svg") :].replace("#000000", "currentColor")
    return element.replace("<svg ", '<svg fill="currentColor" ', 1)


def _svg(figure: Figure, name: str, dpi: int, transparent: bool = False) -> str:
    text = _save(figure, "svg", name, dpi, transparent).decode()
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)


def _save(figure: Figure, kind: str, name: str, dpi: int, transparent: bool = False) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=FORMATS[kind], transparent=transparent)
    return buffer.getvalue()
