"""Accuracy of every method on every task, as a figure."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.evidence import Evidence
from pipeline.report.figures import COLOURS, STYLE, single_axes
from pipeline.report.view import Drawing, Look, View
from pipeline.statistics.accuracy import AVERAGE

ORDER = 50


def view(evidence: Evidence, look: Look) -> View:
    """Show a dot per task and a bar at their mean."""
    means = evidence.runs.groupby("method").mean()
    caption = (
        f"Accuracy of every method: a dot per task, a bar at their mean, best first; methods with randomness: mean "
        f"over their seeds. {evidence.protocol.sentence()}"
    )
    per_task, averages = means[list(evidence.tasks)], means[AVERAGE]
    figure = draw_accuracies(per_task, averages, evidence.sections, evidence.titles, look.width)
    rows = per_task.rename_axis("method").reset_index().melt("method", var_name="task", value_name="accuracy")
    return View(figures={"accuracy": Drawing(figure, caption, "Accuracy of every method", rows)})


@mpl.rc_context(STYLE)
def draw_accuracies(
    means: pd.DataFrame,
    averages: pd.Series,
    groups: Mapping[str, Sequence[str]],
    titles: Mapping[str, str],
    width: float,
) -> Figure:
    """Draw a row per method, best average first: a dot per task, a bar at their mean; a colour per section.

    means: method -> accuracy in % per task; averages: method -> their mean, as the tables have it.
    """
    order = averages.loc[[name for names in groups.values() for name in names]].sort_values(kind="stable").index[::-1]
    places = {str(name): place for place, name in enumerate(order)}
    figure, axes = single_axes(width, 0.17 * len(places) + 1.0)
    for (title, names), colour in zip(groups.items(), ("#777777", *COLOURS), strict=False):
        if names:
            rows = [places[name] for name in names]
            values = means.loc[list(names)].to_numpy().ravel()
            axes.plot(values, np.repeat(rows, means.shape[1]), "o", color=colour, alpha=0.45, markersize=3)
            axes.plot(averages[list(names)], rows, "|", color=colour, markersize=9, markeredgewidth=2, label=title)
    for name, row in places.items():
        axes.annotate(f"{averages[name]:.1f}", (1.01, row), xycoords=("axes fraction", "data"), va="center")
    axes.set(yticks=range(len(places)), yticklabels=[titles[name] for name in places], xlabel="accuracy (%)")
    axes.set_ylim(len(places) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3, linewidth=0.5)
    figure.legend(loc="outside upper center", ncols=2)
    return figure
