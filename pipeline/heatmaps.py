"""Heat maps of a diagnosis, from the rows of data/diagnostics/<suite>/measures.csv; `pipeline.figures` renders them."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import STYLE

DARK, LIGHT = "#222222", "#ffffff"
"""Of text on a cell: not black, which pages replace by the colour of their own text."""
FRAMED = STYLE | {"axes.spines.top": True, "axes.spines.right": True}


def shown_mloss(measures: pd.DataFrame) -> pd.DataFrame:
    """task, block, value: what `mloss` draws."""
    rows = measures[measures.measure == "mloss_normalised"]
    blocks = rows.layer.str.extract(r"\.(\d+)\.")[0].astype(int)
    return rows.assign(block=blocks)[["task", "block", "value"]]


def shown_cosines(measures: pd.DataFrame) -> pd.DataFrame:
    """task, other, value: what `cosines` draws."""
    return measures[(measures.measure == "cosine") & (measures.layer == "")][["task", "other", "value"]]


@mpl.rc_context(FRAMED)
def mloss(measures: pd.DataFrame, tasks: Sequence[str], width: float) -> Figure:
    """Normalised M-Loss, a row per task and a column per transformer block."""
    values = shown_mloss(measures).pivot(index="task", columns="block", values="value").loc[[*tasks]]
    figure = Figure((width, 0.26 * len(tasks) + 0.9), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="viridis", vmin=0, aspect="auto", interpolation="none")
    axes.set(xlabel="transformer block", xticks=range(values.shape[1]), yticks=range(len(tasks)), yticklabels=tasks)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="normalised M-Loss", pad=0.02)
    return figure


@mpl.rc_context(FRAMED)
def cosines(measures: pd.DataFrame, tasks: Sequence[str], width: float) -> Figure:
    """Cosines of the task vectors over the whole model, zero in the middle of the colours; the diagonal is empty."""
    rows = shown_cosines(measures)
    values = rows.pivot(index="task", columns="other", values="value").loc[[*tasks], [*tasks]].to_numpy()
    limit = float(np.nanmax(np.abs(values))) or 1.0
    figure = Figure((width, 0.26 * len(tasks) + 1.3), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="none")
    axes.set(xticks=range(len(tasks)), yticks=range(len(tasks)), yticklabels=tasks)
    axes.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    _write(axes, values, limit)
    figure.colorbar(image, ax=axes, label="cosine", pad=0.02)
    return figure


def _write(axes: Axes, values: np.ndarray, limit: float) -> None:
    """Every finite value in its cell, in a colour that is read on it."""
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = LIGHT if abs(value) > 0.6 * limit else DARK
            axes.text(column, row, f"{round(value, 2) + 0.0:.2f}", ha="center", va="center", size=6, color=colour)
