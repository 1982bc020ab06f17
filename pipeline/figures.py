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

from pipeline.scores import AVERAGE, CEILING, FLOOR, MAIN

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


@mpl.rc_context(STYLE)
def accuracies(means: pd.DataFrame, looks: Mapping[str, Style], width: float) -> Figure:
    """A row per task, a marker per method. means: method -> accuracy in % per task."""
    tasks = list(means)
    figure = Figure((width, (0.075 * len(looks) + 0.04) * len(tasks) + 1.0), layout="constrained")
    axes = figure.add_subplot()
    offsets = (np.arange(len(looks)) + 0.5) / len(looks) * 0.9 - 0.45
    for index, _ in enumerate(tasks):
        axes.axhspan(index - 0.5, index + 0.5, color="#000000", alpha=0.05 * (index % 2), linewidth=0)
    for offset, (name, look) in zip(offsets, looks.items(), strict=True):
        rows = np.arange(len(tasks)) + offset
        axes.plot(means.loc[name], rows, look.marker, color=look.colour, label=look.title, markeredgewidth=1.2)
    axes.set(yticks=range(len(tasks)), yticklabels=tasks, ylim=(len(tasks) - 0.5, -0.5), xlabel="accuracy (%)")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3, linewidth=0.5)
    figure.legend(loc="outside upper center", ncols=4)
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
    figure = Figure((width, 2.2), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (name, values) in zip(panels, curves.items(), strict=True):
        steps = np.arange(values.shape[1])
        axes.fill_between(steps, values.min(0), values.max(0), color=looks[name].colour, alpha=0.25, linewidth=0)
        axes.plot(steps, values.mean(0), color=looks[name].colour)
        axes.set(title=looks[name].title, xlabel="step")
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5, integer=True))
    panels[0].set_ylabel("loss of the batch (nats)")
    return figure


@mpl.rc_context(STYLE)
def efficiency(runs: pd.DataFrame, floor: float, ceiling: float, looks: Mapping[str, Style], width: float) -> Figure:
    """Average accuracy against unlabelled images per task; bands of one standard deviation over seeds.

    Methods are shifted sideways by a few per cent, so that equal ones do not hide each other.
    """
    figure = Figure((width, 0.6 * width), layout="constrained")
    axes, found = figure.add_subplot(), runs.groupby(["method", "k"])[AVERAGE].agg(["mean", "std"]).fillna(0.0)
    counts = found.index.get_level_values("k").unique().sort_values()
    drawn = [name for name in looks if name in found.index]
    for index, name in enumerate(drawn):
        look, line = looks[name], found.loc[name]
        places = line.index * 1.06 ** (index - (len(drawn) - 1) / 2)
        low, high = line["mean"] - line["std"], line["mean"] + line["std"]
        axes.fill_between(places, low, high, color=look.colour, alpha=0.2, linewidth=0)
        axes.plot(places, line["mean"], color=look.colour, marker=look.marker, linestyle=look.line, label=look.title)
    for level, name in ((floor, FLOOR), (ceiling, CEILING)):
        if np.isfinite(level):
            axes.axhline(level, color=looks[name].colour, linestyle=looks[name].line, label=looks[name].title)
    axes.set(xscale="log", xlabel="unlabelled images per task", ylabel="average accuracy (%)")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.grid(alpha=0.3, linewidth=0.5)
    figure.legend(loc="outside upper center", ncols=5)
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
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=FORMATS[kind])
    if kind != "svg":
        return buffer.getvalue()
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", buffer.getvalue().decode()).encode()
