"""The protocol in the report: what calibrating on the images that are scored is worth."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.figures import STYLE, Style, styles
from pipeline.report.studies import Context
from pipeline.report.view import Drawing, Frame, View
from pipeline.report.words import (
    INTERVALS,
    WINS,
    accuracies,
    basis,
    count,
    excludes_zero,
    further,
    interval,
    spread,
    stated,
)
from pipeline.statistics.accuracy import CEILING, FLOOR
from pipeline.statistics.contrasts import Contrast, contrast, resample

HELD_OUT, TRANSDUCTIVE = "held-out", "transductive"
SHIFT = 1.1
"""Neighbours are shifted sideways by this factor."""

Worth = Mapping[str, Mapping[int, Contrast]]
"""{method: {k: transductive minus held-out}}."""


def view(rows: pd.DataFrame, context: Context) -> View:
    """`rows`: the study's scores; their settings are the two protocols."""
    runs, decimals = (rows, ("method", "k", "setting"), context.tasks), context.decimals + 1
    table, drawn = accuracies(*runs), resample(*runs)
    methods, budgets = [*dict.fromkeys(rows.method)], sorted(int(k) for k in rows.k.unique())
    worth = {
        name: {k: contrast(drawn, [(name, k, TRANSDUCTIVE)], [(name, k, HELD_OUT)]) for k in budgets}
        for name in methods
    }
    looks = styles({name: context.titles[name] for name in (FLOOR, CEILING, *methods)})
    held_out = context.params["study.protocol"]["held_out"]
    split, seeds = context.evaluation_split, count(rows.seed.nunique(), "seed")
    few = ", ".join(rows[rows.samples < rows.k].task.unique())
    what = (
        f"{seeds}; calibrated on unlabelled images of the {held_out} split (held-out) or of the {split} split "
        f"(TRANSDUCTIVE); both scored on all images of the {split} split, those calibrated on included."
        f"{f' A task with fewer images uses all it has ({few}).' * bool(few)}"
    )
    found = [one for each in worth.values() for one in each.values()]
    clear = sum(excludes_zero(one.these) for one in found)
    return View(
        title="Protocol",
        question=(
            f"What is the field's habit worth, to calibrate on the unlabelled {split} images that are scored? The same "
            "methods, steps and seeds on those and on held-out images."
        ),
        sentences=(
            *(
                f"{context.titles[name]}, transductive minus held-out: {_each(each, decimals)} "
                f"(n = {count(next(iter(each.values())).these.seeds, 'seed')})."
                for name, each in worth.items()
            ),
            f"{clear} of {len(found)} intervals exclude zero, where chance alone would give about "
            f"{0.05 * len(found):.1f}. Runs are paired by scored image and seed, which sets the order of batches; the "
            f"images they are calibrated on are of different splits.",
            basis(found[0]),
        ),
        figures={
            "protocol": Drawing(
                _figure(table, worth, looks, context.width),
                f"Left: average accuracy over {count(len(context.tasks), 'task')} against unlabelled images per task, "
                f"filled and solid: transductive, open and dotted: held-out; right: their difference, with 95 % "
                f"intervals over test images and seeds; over {what}",
            )
        },
        tables={
            "protocol": Frame(
                _table(table, worth, context),
                f"Average accuracy in %, mean ± sample standard deviation, and the paired difference in points with "
                f"95 % interval. {INTERVALS} {WINS} Over {what}",
            )
        },
        contrasts={f"{name}, {k} images": each for name, budget in worth.items() for k, each in budget.items()},
    )


def _each(found: Mapping[int, Contrast], decimals: int) -> str:
    return "; ".join(f"k = {k:,}: {stated(one.these, decimals)}" for k, one in found.items())


def _table(table: pd.DataFrame, worth: Worth, context: Context) -> pd.DataFrame:
    average = table.mean(axis=1)
    return pd.DataFrame(
        [
            {
                "Method": context.titles[name],
                "Images per task": k,
                "Held-out": spread(average[name, k, HELD_OUT], context.decimals),
                "Transductive": spread(average[name, k, TRANSDUCTIVE], context.decimals),
                "Difference": interval(found.these, context.decimals + 1),
                **further(found, context.decimals + 1),
            }
            for name, each in worth.items()
            for k, found in each.items()
        ]
    )


@mpl.rc_context(STYLE)
def _figure(table: pd.DataFrame, worth: Worth, looks: Mapping[str, Style], width: float) -> Figure:
    figure, average = Figure((width, 0.45 * width), layout="constrained"), table.mean(axis=1)
    left, right = figure.subplots(1, 2)
    for index, (name, each) in enumerate(worth.items()):
        look, budgets = looks[name], np.array([*each])
        places = budgets * SHIFT ** (index - (len(worth) - 1) / 2)
        kind = {"color": look.colour, "marker": look.marker}
        for protocol, line, fill in ((TRANSDUCTIVE, "-", look.colour), (HELD_OUT, ":", "white")):
            means = [average[name, k, protocol].mean() for k in budgets]
            label = look.title if protocol == TRANSDUCTIVE else None
            left.plot(places, means, linestyle=line, markerfacecolor=fill, label=label, **kind)
        middle, low, high = (
            np.array([getattr(one.these, part) for one in each.values()]) for part in ("mean", "low", "high")
        )
        right.errorbar(places, middle, (middle - low, high - middle), linestyle="-", elinewidth=0.8, **kind)
    right.axhline(0, color="#777777", linewidth=0.6)
    left.set(ylabel="average accuracy (%)")
    right.set(ylabel="transductive minus held-out (points)")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="unlabelled images per task")
        axes.set_xticks(budgets, [f"{budget:,}" for budget in budgets])
        axes.minorticks_off()
        axes.grid(alpha=0.3, linewidth=0.5)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
