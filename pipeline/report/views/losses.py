"""The loss of every step of the methods that take steps, as a figure."""

from collections.abc import Mapping

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.report.evidence import Evidence
from pipeline.report.figures import STYLE, Style, styles
from pipeline.report.view import Drawing, Look, View
from pipeline.report.words import count

ORDER = 80
PANELS = 4
"""Panels side by side."""


def view(evidence: Evidence, look: Look) -> View:
    """Show a panel per method."""
    seeds = " or ".join(count(number, "seed") for number in sorted({*map(len, evidence.losses.values())}))
    caption = (
        f"Loss of the batch before each step, on {evidence.protocol.calibration_split} examples; mean and range over "
        f"{seeds}. Each method has its own objective, unit and scale."
    )
    rows = loss_rows(evidence.losses)
    figure = draw_losses(rows, styles(evidence.titles), look.width)
    return View(figures={"losses": Drawing(figure, caption, "Losses", rows)})


def loss_rows(losses: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return method, step, mean, low, high over seeds; losses: a row per seed, a column per step."""
    frames = []
    for method, values in losses.items():
        columns = {"mean": values.mean(), "low": values.min(), "high": values.max()}
        frames.append(pd.DataFrame({"method": method, "step": values.columns, **columns}))
    return pd.concat(frames)


@mpl.rc_context(STYLE)
def draw_losses(rows: pd.DataFrame, looks: Mapping[str, Style], width: float) -> Figure:
    """Draw a panel per method of `loss_rows`: mean, and least to greatest over seeds, on axes of its own scale."""
    methods = dict([*rows.groupby("method", sort=False)])
    columns = min(len(methods), PANELS)
    lines = -(-len(methods) // columns)
    figure = Figure((width, 1.7 * lines + 0.5), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False)
    for axes, (name, losses) in zip(panels.flat, methods.items(), strict=False):
        look = looks[str(name)]
        axes.fill_between(losses.step, losses.low, losses.high, color=look.colour, alpha=0.25, linewidth=0)
        axes.plot(losses.step, losses["mean"], color=look.colour)
        axes.set(title=look.title, xlabel="step")
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    for axes in panels.flat[len(methods) :]:
        axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_ylabel("loss of the batch")
    return figure
