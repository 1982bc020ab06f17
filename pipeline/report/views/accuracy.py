"""Accuracy of every method on every task, as a figure."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.evidence import Evidence
from pipeline.report.figures import COLOURS, STYLE
from pipeline.report.view import Drawing, Look, View

ORDER = 50


def view(evidence: Evidence, look: Look) -> View:
    """A dot per task, a bar at their mean."""
    means = evidence.runs.groupby("method")[list(evidence.tasks)].mean()
    caption = (
        f"Accuracy of every method: a dot per task, a bar at their mean, best first; methods with randomness: mean "
        f"over their seeds. {evidence.protocol.sentence()}"
    )
    figure = accuracies(means, evidence.sections, evidence.titles, look.width)
    return View(figures={"accuracy": Drawing(figure, caption, "Accuracy of every method", rows(means))})


def rows(means: pd.DataFrame) -> pd.DataFrame:
    """method, task, accuracy of `means` [method, task]."""
    return means.rename_axis("method").reset_index().melt("method", var_name="task", value_name="accuracy")


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
