"""SAMerging's coefficients, as a heat map."""

import re
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.evidence import Evidence
from pipeline.report.figures import STYLE
from pipeline.report.view import Drawing, Look, View
from pipeline.report.words import count
from pipeline.statistics.accuracy import MAIN

ORDER = 70


def view(evidence: Evidence, look: Look) -> View:
    """One coefficient per task and tensor."""
    title = f"Coefficients of {evidence.titles[MAIN]}"
    caption = (
        f"{title} per task and tensor of the image tower, mean over {count(len(evidence.protocol.seeds), 'seed')}, "
        f"calibrated on {evidence.protocol.calibration_split} images; numbers are transformer blocks, in and out what "
        "lies before and after them. Biases of k, on which no output depends, are left out."
    )
    shown = (evidence.coefficients, evidence.tasks, evidence.groups)
    return View(figures={"coefficients": Drawing(heat_map(*shown, look.width), caption, title, rows(*shown))})


def rows(values: np.ndarray, tasks: Sequence[str], groups: Sequence[str]) -> pd.DataFrame:
    """task, tensor, coefficient of lambda [T, G]."""
    index = pd.MultiIndex.from_product([tasks, groups], names=["task", "tensor"])
    return pd.DataFrame({"coefficient": values.ravel()}, index).reset_index()


def blocks(groups: Sequence[str]) -> list[tuple[str, int, int]]:
    """(label, first, end) of runs of groups in one transformer block: "in", the block's number, "out"."""
    labels: list[str] = []
    for name in groups:
        number = re.search(r"\.(\d+)\.", name)
        labels.append(number.group(1) if number else "out" if any(map(str.isdigit, labels)) else "in")
    starts = [index for index, label in enumerate(labels) if index == 0 or label != labels[index - 1]]
    return [(labels[start], start, end) for start, end in zip(starts, [*starts[1:], len(labels)], strict=True)]


@mpl.rc_context(STYLE | {"axes.spines.top": True, "axes.spines.right": True})
def heat_map(values: np.ndarray, tasks: Sequence[str], groups: Sequence[str], width: float) -> Figure:
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
