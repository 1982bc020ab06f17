"""Data efficiency in the report (the paper's Figure 4): accuracy against the number of unlabelled examples."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.figures import STYLE
from pipeline.report.studies import Context, _shared
from pipeline.report.studies._shared import count_seeds
from pipeline.report.view import Drawing, Frame, View
from pipeline.report.words import INTERVALS, accuracies, basis, count, excludes_zero, interval, spread, stated
from pipeline.statistics.accuracy import CEILING, FLOOR, MAIN, TWIN
from pipeline.statistics.contrasts import Contrast, contrast_settings, mark_settings

Losses = Mapping[str, Mapping[int, Contrast]]
"""{method: {k: accuracy with k examples minus that with most}}."""
SHIFT = 1.12
"""Neighbours are shifted sideways by this factor, so that equal ones do not hide each other."""


def view(rows: pd.DataFrame, context: Context) -> View:
    """`rows`: the study's scores."""
    runs, titles, digits = (rows, ("method", "k"), context.tasks), context.titles, context.digits
    average, marks = accuracies(*runs).mean(axis=1), mark_settings(*runs, context.clusters)
    methods, budgets = [*dict.fromkeys(rows.method)], sorted(int(k) for k in rows.k.unique())
    losses = {
        name: {k: contrast_settings(marks, [(name, k)], [(name, budgets[-1])]) for k in budgets[:-1]}
        for name in methods
    }
    gains = {k: contrast_settings(marks, [(MAIN, k)], [(TWIN, k)]) for k in budgets}
    splits = (
        f"{count(rows.seed.nunique(), 'seed')}; calibrated on examples of the {context.calibration_split} split, "
        f"scored on the {context.evaluation_split} split; the same number of optimiser steps for each."
        f"{_shared.describe_small_tasks(rows)}"
    )
    normalised = "in % of the gap between floor and ceiling" if context.ceiling > context.floor else "in points"
    gain = f"{titles[MAIN]} minus {titles[TWIN].lower()}"
    each = "; ".join(f"k = {k:,}: {interval(found.these, digits)}" for k, found in gains.items())
    return View(
        title="Data efficiency",
        question=(
            "How many unlabelled examples per task does calibration need? The same method, schedule and seeds with "
            "ever more of them; the examples of a seed are nested."
        ),
        sentences=(
            *(_describe_need(titles[name], loss, budgets[-1], digits) for name, loss in losses.items() if loss),
            f"{gain}, points with k examples per task: {each}. "
            f"{_shared.describe_chance([found.these for found in gains.values()])} "
            f"({count_seeds(gains[budgets[0]].these)}).",
            basis(gains[budgets[0]]),
        ),
        figures={
            "efficiency": Drawing(
                _draw(average, losses, budgets, context),
                f"Left: average accuracy over {count(len(context.tasks), 'task')} against unlabelled examples per "
                f"task, mean and band of one sample standard deviation over {splits} Right: the same minus that with "
                f"{budgets[-1]:,} examples, {normalised}, with 95 % intervals of the paired difference, over test "
                f"examples and seeds.",
            )
        },
        tables={
            "accuracies": Frame(
                pd.DataFrame(
                    {
                        "Examples per task": k,
                        **{
                            titles[name]: spread(average[name, k], context.decimals) for name in average.index.unique(0)
                        },
                        gain: interval(found.these, digits),
                        **_shared.like_column(found, digits),
                    }
                    for k, found in gains.items()
                ),
                f"Average accuracy in %, mean ± sample standard deviation, and the paired difference in points with "
                f"95 % interval. {INTERVALS} Over {splits}",
            ),
            "losses": Frame(
                pd.DataFrame(
                    {"Examples per task": budgets[:-1]}
                    | {
                        titles[name]: [interval(one.these, digits) for one in loss.values()]
                        for name, loss in losses.items()
                    }
                ),
                f"Points of average accuracy against {budgets[-1]:,} examples, with 95 % interval over test examples "
                f"and seeds, over {splits}",
            ),
        },
        contrasts={
            **{f"{name}, {k} examples": loss for name, by_budget in losses.items() for k, loss in by_budget.items()},
            **{f"{MAIN} minus {TWIN}, {k} examples": found for k, found in gains.items()},
        },
    )


def _find_start(budgets: Sequence[int], holds: Sequence[bool]) -> int | None:
    """Find the least number of examples from which on something holds."""
    failing = [index for index, holding in enumerate(holds) if not holding]
    return next(iter(budgets[failing[-1] + 1 if failing else 0 :]), None)


def _describe_need(title: str, losses: Mapping[int, Contrast], most: int, digits: int) -> str:
    """Say how few examples suffice, by two measures."""
    budgets = [*losses]
    unclear = _find_start(budgets, [not excludes_zero(one.these) for one in losses.values()])
    close = _find_start(budgets, [one.these.mean > -1 for one in losses.values()])
    first = (
        f"no number below {most:,} does so well that its interval includes zero"
        if unclear is None
        else f"from {unclear:,} on every interval of the difference to {most:,} includes zero "
        f"({unclear:,}: {interval(losses[unclear].these, digits)} points)"
    )
    second = (
        f"every number below {most:,} loses a point or more"
        if close is None
        else f"from {close:,} on less than a point is lost ({close:,}: {stated(losses[close].these, digits)})"
    )
    return f"{title}, unlabelled examples per task: {first}; {second} ({count_seeds(losses[budgets[0]].these)})."


@mpl.rc_context(STYLE)
def _draw(average: pd.Series, losses: Losses, budgets: Sequence[int], context: Context) -> Figure:
    looks, gap = context.styles((FLOOR, CEILING, *losses)), context.ceiling - context.floor
    change = f"change against {budgets[-1]:,} examples ({'% of the gap' if gap > 0 else 'points'})"
    figure, left, right = _shared.two_panels(context.width, 0.5, "average accuracy (%)", change)
    for index, (name, loss) in enumerate(losses.items()):
        places, style = _shared.spread_budgets(budgets, SHIFT, index, len(losses)), _shared.line_style(looks[name])
        runs = average[name].groupby("k")
        means, deviations = runs.mean(), runs.std().fillna(0.0)
        left.fill_between(
            places, means - deviations, means + deviations, color=looks[name].colour, alpha=0.2, linewidth=0
        )
        left.plot(places, means, **style)
        differences = [one.these for one in loss.values()]
        _shared.plot_differences(right, places[:-1], differences, style, 100 / gap if gap > 0 else 1.0)
    for level, name in ((context.floor, FLOOR), (context.ceiling, CEILING)):
        if np.isfinite(level):
            left.axhline(level, color=looks[name].colour, linestyle=looks[name].line, label=looks[name].title)
    right.axhline(0, color="#777777", linewidth=0.6)
    _shared.label_budgets(left, budgets)
    _shared.label_budgets(right, budgets[:-1])
    return _shared.add_legend(figure, left, 5)
