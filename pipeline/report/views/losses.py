"""The loss of every step of the methods that take steps, as a figure."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.evidence import Evidence
from pipeline.report.figures import STYLE, Style, styles
from pipeline.report.view import Drawing, Look, View
from pipeline.report.words import count

ORDER = 80
PANELS = 4
"""Panels side by side."""


def view(evidence: Evidence, look: Look) -> View:
    """A panel per method."""
    caption = (
        f"Loss of the batch before each step, on {evidence.protocol.calibration_split} images; mean and range over "
        f"{count(len(evidence.protocol.seeds), 'seed')}. Each method has its own objective, unit and scale."
    )
    figure = curves(evidence.losses, styles(evidence.titles), look.width)
    return View(figures={"losses": Drawing(figure, caption, "Losses", rows(evidence.losses))})


def rows(curves: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """method, step, mean, low, high over seeds of loss [S, steps] per method."""
    frames = [
        pd.DataFrame({"mean": values.mean(0), "low": values.min(0), "high": values.max(0)})
        .rename_axis("step")
        .reset_index()
        .assign(method=method)
        for method, values in curves.items()
    ]
    return pd.concat(frames)[["method", "step", "mean", "low", "high"]]


@mpl.rc_context(STYLE)
def curves(losses: Mapping[str, np.ndarray], looks: Mapping[str, Style], width: float) -> Figure:
    """A panel per method: loss [S, steps], mean and least to greatest over seeds. Objectives differ, so do the axes."""
    columns = min(len(losses), PANELS)
    lines = -(-len(losses) // columns)
    figure = Figure((width, 1.7 * lines + 0.5), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False)
    for axes, (name, values) in zip(panels.flat, losses.items(), strict=False):
        steps = np.arange(values.shape[1])
        axes.fill_between(steps, values.min(0), values.max(0), color=looks[name].colour, alpha=0.25, linewidth=0)
        axes.plot(steps, values.mean(0), color=looks[name].colour)
        axes.set(title=looks[name].title, xlabel="step")
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(3, integer=True))
    for axes in panels.flat[len(losses) :]:
        axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_ylabel("loss of the batch")
    return figure
