"""Data efficiency in the report (the paper's Figure 4): accuracy against the number of unlabelled images."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.figures import STYLE, Style, styles
from pipeline.report.studies import Context
from pipeline.report.view import Drawing, Frame, View
from pipeline.report.words import (
    INTERVALS,
    LIKE,
    accuracies,
    basis,
    count,
    edges,
    excludes_zero,
    interval,
    spread,
    stated,
)
from pipeline.statistics.accuracy import CEILING, FLOOR, MAIN, TWIN
from pipeline.statistics.contrasts import Contrast, contrast, resample

Losses = Mapping[str, Mapping[int, Contrast]]
"""{method: {k: accuracy with k images minus that with most}}."""
SHIFT = 1.12
"""Neighbours are shifted sideways by this factor, so that equal ones do not hide each other."""


def view(rows: pd.DataFrame, context: Context) -> View:
    """`rows`: the study's scores."""
    runs = (rows, ("method", "k"), context.tasks)
    table, found = accuracies(*runs), resample(*runs)
    methods = [*dict.fromkeys(rows.method)]
    budgets, decimals = sorted(int(k) for k in rows.k.unique()), context.decimals + 1
    losses = {name: {k: contrast(found, [(name, k)], [(name, budgets[-1])]) for k in budgets[:-1]} for name in methods}
    gains = {k: contrast(found, [(MAIN, k)], [(TWIN, k)]) for k in budgets}
    looks = styles({name: context.titles[name] for name in (FLOOR, CEILING, *methods)})
    seeds, few = count(rows.seed.nunique(), "seed"), ", ".join(rows[rows.samples < rows.k].task.unique())
    splits = (
        f"{seeds}; calibrated on images of the {context.calibration_split} split, scored on the "
        f"{context.evaluation_split} split; the same number of optimiser steps for each."
        f"{f' A task with fewer images uses all it has ({few}).' * bool(few)}"
    )
    gap = context.ceiling - context.floor
    normalised = "in % of the gap between floor and ceiling" if gap > 0 else "in points"
    return View(
        title="Data efficiency",
        question=(
            "How many unlabelled images per task does calibration need? The same method, schedule and seeds with ever "
            "more of them; the images of a seed are nested."
        ),
        sentences=(
            *(_enough(context.titles[name], each, budgets[-1], decimals) for name, each in losses.items() if each),
            _sharpness(gains, context.titles, decimals),
            basis(gains[budgets[0]]),
        ),
        figures={
            "efficiency": Drawing(
                _figure(table, losses, looks, context.floor, context.ceiling, context.width),
                f"Left: average accuracy over {count(len(context.tasks), 'task')} against unlabelled images per task, "
                f"mean and band of one sample standard deviation over {splits} Right: the same minus that with "
                f"{budgets[-1]:,} images, {normalised}, with 95 % intervals of the paired difference, over test "
                f"images and seeds.",
            )
        },
        tables={
            "accuracies": Frame(
                _accuracies(table, gains, context),
                f"Average accuracy in %, mean ± sample standard deviation, and the paired difference in points with "
                f"95 % interval. {INTERVALS} Over {splits}",
            ),
            "losses": Frame(
                _losses(losses, context.titles, decimals),
                f"Points of average accuracy against {budgets[-1]:,} images, with 95 % interval over test images and "
                f"seeds, over {splits}",
            ),
        },
        contrasts={
            **{f"{name}, {k} images": loss for name, each in losses.items() for k, loss in each.items()},
            **{f"{MAIN} minus {TWIN}, {k} images": gain for k, gain in gains.items()},
        },
    )


def _from(budgets: Sequence[int], holds: Sequence[bool]) -> int | None:
    """The least number of images from which on something holds."""
    found = None
    for budget, holding in zip(reversed(budgets), reversed(holds), strict=True):
        if not holding:
            break
        found = budget
    return found


def _enough(title: str, losses: Mapping[int, Contrast], most: int, decimals: int) -> str:
    """How few images suffice, by two measures."""
    budgets = [*losses]
    unclear = _from(budgets, [not excludes_zero(one.these) for one in losses.values()])
    close = _from(budgets, [one.these.mean > -1 for one in losses.values()])
    first = (
        f"no number below {most:,} does so well that its interval includes zero"
        if unclear is None
        else f"from {unclear:,} on every interval of the difference to {most:,} includes zero "
        f"({unclear:,}: {interval(losses[unclear].these, decimals)} points)"
    )
    second = (
        f"every number below {most:,} loses a point or more"
        if close is None
        else f"from {close:,} on less than a point is lost ({close:,}: {stated(losses[close].these, decimals)})"
    )
    number = next(iter(losses.values())).these.seeds
    return f"{title}, unlabelled images per task: {first}; {second} (n = {count(number, 'seed')})."


def _sharpness(gains: Mapping[int, Contrast], titles: Mapping[str, str], decimals: int) -> str:
    """SAM against plain descent at every number of images."""
    clear = sum(excludes_zero(found.these) for found in gains.values())
    each = "; ".join(f"k = {k:,}: {interval(found.these, decimals)}" for k, found in gains.items())
    return (
        f"{titles[MAIN]} minus {titles[TWIN].lower()}, points with k images per task: {each}. {clear} of {len(gains)} "
        f"intervals exclude zero, where chance alone would give about {0.05 * len(gains):.1f} "
        f"(n = {count(next(iter(gains.values())).these.seeds, 'seed')})."
    )


@mpl.rc_context(STYLE)
def _figure(
    table: pd.DataFrame, losses: Losses, looks: Mapping[str, Style], floor: float, ceiling: float, width: float
) -> Figure:
    figure = Figure((width, 0.5 * width), layout="constrained")
    left, right = figure.subplots(1, 2)
    average, budgets = table.mean(axis=1), table.index.unique("k").sort_values()
    unit = 100 / (ceiling - floor) if ceiling > floor else 1.0
    for index, (name, found) in enumerate(losses.items()):
        look, places = looks[name], budgets * SHIFT ** (index - (len(losses) - 1) / 2)
        means, deviations = (getattr(average[name].groupby("k"), kind)().fillna(0.0) for kind in ("mean", "std"))
        left.fill_between(places, means - deviations, means + deviations, color=look.colour, alpha=0.2, linewidth=0)
        kind = {"color": look.colour, "marker": look.marker, "linestyle": look.line}
        left.plot(places, means, label=look.title, **kind)
        middle, low, high = (
            unit * np.array([getattr(one.these, part) for one in found.values()]) for part in ("mean", "low", "high")
        )
        right.errorbar(places[:-1], middle, (middle - low, high - middle), elinewidth=0.8, **kind)
    for level, name in ((floor, FLOOR), (ceiling, CEILING)):
        if np.isfinite(level):
            left.axhline(level, color=looks[name].colour, linestyle=looks[name].line, label=looks[name].title)
    right.axhline(0, color="#777777", linewidth=0.6)
    left.set(ylabel="average accuracy (%)")
    right.set(ylabel=f"change against {budgets[-1]:,} images ({'% of the gap' if ceiling > floor else 'points'})")
    _budgets(left, budgets)
    _budgets(right, budgets[:-1])
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure


def _budgets(axes: Axes, budgets: Sequence[int]) -> None:
    """A logarithmic axis with a tick at every number of images."""
    axes.set(xscale="log", xlabel="unlabelled images per task")
    axes.set_xticks(budgets, [f"{budget:,}" for budget in budgets])
    axes.minorticks_off()
    axes.grid(alpha=0.3, linewidth=0.5)


def _accuracies(table: pd.DataFrame, gains: Mapping[int, Contrast], context: Context) -> pd.DataFrame:
    average, decimals = table.mean(axis=1), context.decimals
    title = f"{context.titles[MAIN]} minus {context.titles[TWIN].lower()}"
    return pd.DataFrame(
        [
            {
                "Images per task": k,
                **{context.titles[name]: spread(average[name, k], decimals) for name in table.index.unique("method")},
                title: interval(found.these, decimals + 1),
                LIKE: edges(found.like, decimals + 1),
            }
            for k, found in gains.items()
        ]
    )


def _losses(losses: Losses, titles: Mapping[str, str], decimals: int) -> pd.DataFrame:
    budgets = [*next(iter(losses.values()))]
    shown = {titles[name]: [interval(one.these, decimals) for one in found.values()] for name, found in losses.items()}
    return pd.DataFrame({"Images per task": budgets, **shown})
