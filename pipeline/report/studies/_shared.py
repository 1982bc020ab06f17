"""What several study views share: curves with bands and intervals, the axis of budgets, and sentences on chance."""

from collections.abc import Collection, Sequence
from typing import TypedDict

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.figures import Style
from pipeline.report.words import LIKE, count, edges, excludes_zero
from pipeline.statistics.contrasts import Contrast, PairedDifference


class LineStyle(TypedDict, total=False):
    """Arguments with which matplotlib draws a line."""

    color: str
    marker: str
    linestyle: str | tuple
    label: str


def line_style(look: Style) -> LineStyle:
    """Return how the line of a method is drawn."""
    return {"color": look.colour, "marker": look.marker, "linestyle": look.line, "label": look.title}


def plot_range(axes: Axes, values: pd.Series, level: str, style: LineStyle, alpha: float = 0.2) -> None:
    """Plot the mean of `values` at each value of an index level, in a band from the least to the greatest."""
    curve = values.groupby(level).agg(["mean", "min", "max"])
    axes.fill_between(curve.index, curve["min"], curve["max"], color=style.get("color"), alpha=alpha, linewidth=0)
    axes.plot(curve.index, curve["mean"], **style)


def plot_differences(
    axes: Axes,
    places: Sequence[float] | np.ndarray,
    differences: Collection[PairedDifference],
    style: LineStyle,
    unit: float = 1.0,
    width: float = 0.8,
) -> None:
    """Plot differences, in points times `unit`, with their intervals as bars of this line width."""
    points = [(difference.mean, difference.low, difference.high) for difference in differences]
    middle, low, high = unit * np.array(points).reshape(-1, 3).T
    axes.errorbar(places, middle, (middle - low, high - middle), elinewidth=width, **style)


def two_panels(width: float, ratio: float, *labels: str) -> tuple[Figure, Axes, Axes]:
    """Return a figure of height `ratio` times its width, and two panels in it whose y axes have these labels."""
    figure = Figure((width, ratio * width), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, label in zip((left, right), labels, strict=True):
        axes.set_ylabel(label)
    return figure, left, right


def add_legend(figure: Figure, axes: Axes, columns: int) -> Figure:
    """Put the legend of these axes above all panels of the figure, and return it."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=columns)
    return figure


def label_budgets(axes: Axes, budgets: Sequence[int]) -> None:
    """Make the x axis logarithmic, with a tick at every number of examples."""
    axes.set(xscale="log", xlabel="unlabelled examples per task")
    axes.set_xticks(budgets, [f"{budget:,}" for budget in budgets])
    axes.minorticks_off()
    axes.grid(alpha=0.3, linewidth=0.5)


def spread_budgets(budgets: Sequence[int], factor: float, index: int, curves: int) -> np.ndarray:
    """Return where the curve `index` of so many has its points: sideways by `factor` from its neighbours."""
    return np.array(budgets) * factor ** (index - (curves - 1) / 2)


def describe_chance(differences: Collection[PairedDifference], intervals: str = "intervals") -> str:
    """Return how many intervals exclude zero, and how many would by chance; `intervals`: what they are called."""
    clear = sum(map(excludes_zero, differences))
    return (
        f"{clear} of {len(differences)} {intervals} exclude zero, where chance alone would give about "
        f"{0.05 * len(differences):.1f}"
    )


def describe_small_tasks(rows: pd.DataFrame) -> str:
    """Return a sentence on the tasks with fewer examples than the budget `k`, empty if there are none."""
    names = ", ".join(rows[rows.samples < rows.k].task.unique())
    return f" A task with fewer examples uses all it has ({names})." if names else ""


def like_column(contrast: Contrast, digits: int) -> dict[str, str]:
    """Return the interval of tasks like these, as a column of a table."""
    return {LIKE: edges(contrast.like, digits)}


def count_seeds(difference: PairedDifference) -> str:
    """Return `n = 3 seeds`."""
    return f"n = {count(difference.seeds, 'seed')}"
