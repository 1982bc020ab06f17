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
    """task, block, mloss, normalised: what `mloss` draws."""
    rows = measures[measures.measure.isin(("mloss", "mloss_normalised"))]
    block = rows.layer.str.extract(r"\.(\d+)\.")[0].astype(int)
    found = rows.assign(block=block).pivot(index=["task", "block"], columns="measure", values="value").reset_index()
    return found.rename(columns={"mloss_normalised": "normalised"}).rename_axis(columns=None)


def shown_transfer(measures: pd.DataFrame) -> pd.DataFrame:
    """task, other, value: what `transfer` draws."""
    return measures[measures.measure == "transfer"][["task", "other", "value"]]


def shown_cosines(measures: pd.DataFrame) -> pd.DataFrame:
    """task, other, value: what `cosines` draws."""
    return measures[(measures.measure == "cosine") & (measures.layer == "")][["task", "other", "value"]]


@mpl.rc_context(FRAMED)
def mloss(measures: pd.DataFrame, tasks: Sequence[str], width: float) -> Figure:
    """M-Loss and normalised M-Loss, a row per task and a column per transformer block."""
    rows = shown_mloss(measures)
    figure = Figure((width, 0.26 * len(tasks) + 0.9), layout="constrained")
    kinds = (("mloss", "M-Loss", "viridis"), ("normalised", "normalised M-Loss", "cividis"))
    for axes, (kind, label, colours) in zip(figure.subplots(1, 2, sharey=True), kinds, strict=True):
        values = rows.pivot(index="task", columns="block", values=kind).loc[[*tasks]]
        image = axes.imshow(values, cmap=colours, vmin=0, aspect="auto", interpolation="none")
        axes.set(xlabel="transformer block", xticks=range(values.shape[1]), yticks=range(len(tasks)), yticklabels=tasks)
        axes.tick_params(length=0)
        figure.colorbar(image, ax=axes, label=label, pad=0.02)
    return figure


@mpl.rc_context(FRAMED)
def transfer(measures: pd.DataFrame, tasks: Sequence[str], width: float) -> Figure:
    """Accuracy on the task of each row of the expert of each column, in per cent."""
    rows = shown_transfer(measures)
    values = rows.pivot(index="task", columns="other", values="value").loc[[*tasks], [*tasks]].to_numpy()
    figure, axes = _square(tasks, width)
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=100, aspect="auto", interpolation="none")
    axes.set(xlabel="expert of", ylabel="images of")
    _write(axes, values, 100, 0)
    figure.colorbar(image, ax=axes, label="accuracy (%)", pad=0.02)
    return figure


@mpl.rc_context(FRAMED)
def cosines(measures: pd.DataFrame, tasks: Sequence[str], width: float) -> Figure:
    """Cosines of the task vectors over the whole model, zero in the middle of the colours; the diagonal is empty."""
    rows = shown_cosines(measures)
    values = rows.pivot(index="task", columns="other", values="value").loc[[*tasks], [*tasks]].to_numpy()
    limit = float(np.nanmax(np.abs(values))) or 1.0
    figure, axes = _square(tasks, width)
    image = axes.imshow(values, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="none")
    _write(axes, values, limit, 2)
    figure.colorbar(image, ax=axes, label="cosine", pad=0.02)
    return figure


def _square(tasks: Sequence[str], width: float) -> tuple[Figure, Axes]:
    """An empty figure with the tasks along both axes."""
    figure = Figure((width, 0.26 * len(tasks) + 1.3), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    return figure, axes


def _write(axes: Axes, values: np.ndarray, limit: float, digits: int) -> None:
    """Every finite value in its cell, in a colour that is read on it."""
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = LIGHT if abs(value) > 0.6 * limit else DARK
            text = f"{round(value, digits) + 0.0:.{digits}f}"
            axes.text(column, row, text, ha="center", va="center", size=6, color=colour)
