"""SAMerging's coefficients, as a heat map."""

import re
from collections.abc import Sequence
from itertools import groupby

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.evidence import Evidence
from pipeline.report.figures import FRAMED, draw_heat_map, single_axes
from pipeline.report.view import Drawing, Look, View
from pipeline.report.words import count
from pipeline.statistics.accuracy import MAIN

ORDER = 70


def view(evidence: Evidence, look: Look) -> View:
    """Show one coefficient per task and tensor."""
    title = f"Coefficients of {evidence.titles[MAIN]}"
    caption = (
        f"{title} per task and tensor of the encoder, mean over {count(len(evidence.protocol.seeds), 'seed')}, "
        f"calibrated on {evidence.protocol.calibration_split} examples; numbers are transformer blocks, in and out "
        "what lies before and after them. Biases of k, on which no output depends, are left out."
    )
    values, tasks, groups = evidence.coefficients, evidence.tasks, evidence.groups
    index = pd.MultiIndex.from_product([list(tasks), list(groups)], names=["task", "tensor"])
    rows = pd.DataFrame({"coefficient": values.ravel()}, index).reset_index()
    return View(figures={"coefficients": Drawing(heat_map(values, tasks, groups, look.width), caption, title, rows)})


def find_blocks(groups: Sequence[str]) -> list[tuple[str, int, int]]:
    """Find (label, first, end) of runs of groups in one transformer block: "in", the block's number, "out"."""
    labels: list[str] = []
    for name in groups:
        number = re.search(r"\.(\d+)\.", name)
        labels.append(number.group(1) if number else "out" if any(map(str.isdigit, labels)) else "in")
    runs = [(label, [index for index, _ in run]) for label, run in groupby(enumerate(labels), lambda pair: pair[1])]
    return [(label, indices[0], indices[-1] + 1) for label, indices in runs]


@mpl.rc_context(FRAMED)
def heat_map(values: np.ndarray, tasks: Sequence[str], groups: Sequence[str], width: float) -> Figure:
    """Draw lambda [T, G], zero in the middle of the colours."""
    figure, axes = single_axes(width, 0.26 * len(tasks) + 0.9)
    limit, blocks = float(np.abs(values).max()) or 1.0, find_blocks(groups)
    draw_heat_map(axes, values, "PuOr_r", "coefficient λ", -limit, limit)
    for _, start, _ in blocks[1:]:
        axes.axvline(start - 0.5, color="#555555", linewidth=0.6)
    axes.set(yticks=range(len(tasks)), yticklabels=tasks, xlabel="tensor of the encoder, by transformer block")
    axes.set_xticks([(start + end - 1) / 2 for _, start, end in blocks], [label for label, _, _ in blocks])
    return figure
