"""Tidy data -> Matplotlib figures. They are returned, not saved; `render` gives their bytes, the same every time.

Colours are Okabe and Ito's, told apart by the colour-blind, and every method has its own marker and line as well.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.scores import CEILING, FLOOR, MAIN

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
PANELS = 4
"""Panels side by side."""
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


@mpl.rc_context(STYLE)
def accuracies(
    means: pd.DataFrame, groups: Mapping[str, Sequence[str]], titles: Mapping[str, str], width: float
) -> Figure:
    """A row per method, best average first: a dot per task, a bar at their mean; a colour per section of the table.

    means: method -> accuracy in % per task.
    """
    averages = means.mean(axis=1)
    order = averages.loc[[name for names in groups.values() for name in names]].sort_values(kind="stable").index[::-1]
    figure = Figure((width, 0.17 * len(order) + 1.0), layout="constrained")
    axes = figure.add_subplot()
    for (title, names), colour in zip(groups.items(), ("#777777", *COLOURS), strict=False):
        rows = [order.get_loc(name) for name in names]
        if rows:
            places = np.repeat(rows, means.shape[1])
            axes.plot(means.loc[list(names)].to_numpy().ravel(), places, "o", color=colour, alpha=0.45, markersize=3)
            axes.plot(averages[list(names)], rows, "|", color=colour, markersize=9, markeredgewidth=2, label=title)
    for row, name in enumerate(order):
        axes.annotate(f"{averages[name]:.1f}", (1.01, row), xycoords=("axes fraction", "data"), va="center")
    axes.set(yticks=range(len(order)), yticklabels=[titles[name] for name in order], xlabel="accuracy (%)")
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3, linewidth=0.5)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def blocks(groups: Sequence[str]) -> list[tuple[str, int, int]]:
    """(label, first, end) of runs of groups in one transformer block: "in", the block's number, "out"."""
    labels: list[str] = []
    for name in groups:
        number = re.search(r"\.(\d+)\.", name)
        labels.append(number.group(1) if number else "out" if any(map(str.isdigit, labels)) else "in")
    starts = [index for index, label in enumerate(labels) if index == 0 or label != labels[index - 1]]
    return [(labels[start], start, end) for start, end in zip(starts, [*starts[1:], len(labels)], strict=True)]


@mpl.rc_context(STYLE | {"axes.spines.top": True, "axes.spines.right": True})
def coefficients(values: np.ndarray, tasks: Sequence[str], groups: Sequence[str], width: float) -> Figure:
    """Heat map of lambda [T, G], zero in the middle of the colours."""
    figure = Figure((width, 0.26 * len(tasks) + 0.9), layout="constrained")
    axes, limit = figure.add_subplot(), float(np.abs(values).max()) or 1.0
    image = axes.imshow(values, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="none")
    parts = blocks(groups)
    for _, start, _ in parts[1:]:
        axes.axvline(start - 0.5, color="#555555", linewidth=0.6)
    axes.set(yticks=range(len(tasks)), yticklabels=tasks, xlabel="tensor of the image tower, by transformer block")
    axes.set_xticks([(start + end - 1) / 2 for _, start, end in parts], [label for label, _, _ in parts])
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="coefficient λ", pad=0.02)
    return figure


@mpl.rc_context(STYLE)
def losses(curves: Mapping[str, np.ndarray], looks: Mapping[str, Style], width: float) -> Figure:
    """A panel per method: loss [S, steps], mean and least to greatest over seeds. Objectives differ, so do the axes."""
    columns = min(len(curves), PANELS)
    lines = -(-len(curves) // columns)
    figure = Figure((width, 1.7 * lines + 0.5), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False)
    for axes, (name, values) in zip(panels.flat, curves.items(), strict=False):
        steps = np.arange(values.shape[1])
        axes.fill_between(steps, values.min(0), values.max(0), color=looks[name].colour, alpha=0.25, linewidth=0)
        axes.plot(steps, values.mean(0), color=looks[name].colour)
        axes.set(title=looks[name].title, xlabel="step")
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(3, integer=True))
    for axes in panels.flat[len(curves) :]:
        axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_ylabel("loss of the batch")
    return figure


@mpl.rc_context(STYLE)
def contact_sheet(images: Mapping[str, np.ndarray], width: float) -> Figure:
    """A row of images per task. images: uint8 [N, H, W, 3] per task."""
    count, height, breadth = next(iter(images.values())).shape[:3]
    figure = Figure((width, len(images) * (0.87 * width / count * height / breadth + 0.04)), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.02, w_pad=0.02, hspace=0)
    for axes, (task, pictures) in zip(figure.subplots(len(images), squeeze=False)[:, 0], images.items(), strict=True):
        framed = np.pad(pictures, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=255)
        axes.imshow(np.concatenate(list(framed), axis=1), interpolation="none")
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(task, rotation=0, ha="right", va="center")
        axes.spines[:].set_visible(False)
    return figure


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
