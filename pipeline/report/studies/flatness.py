"""Flatness in the report: what can stand in for SAM's second pass, how flat it leaves the loss, what it costs."""

from collections.abc import Mapping

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.figures import COLOURS, MARKERS, STYLE
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
from pipeline.statistics.contrasts import Contrast, Difference, contrast, difference, resample

PLAIN, SAM = "plain", "sam"
NAMES = {
    PLAIN: "plain",
    SAM: "SAM",
    "carried": "carried perturbation",
    "per task": "a perturbation per task",
    "smoothed": "random direction",
    "averaged": "averaged iterates",
}
SMALL = 5
"""Decimals of a loss in nats."""
Contrasts = Mapping[str, Contrast]


def view(rows: pd.DataFrame, context: Context) -> View:
    """`rows`: scores, cost, held-out loss and its rise of every variant, seed and task."""
    tasks, decimals = list(context.tasks), context.decimals + 1
    table, found = accuracies(rows, ("setting",), tasks), resample(rows, ("setting",), tasks)
    rises = rows.pivot(index=["setting", "seed"], columns="task", values="rise")[tasks]
    cost = rows.groupby("setting", sort=False)[["passed", "merges"]].mean()
    relative = cost / cost.loc[PLAIN]
    better = {name: contrast(found, [(name,)], [(PLAIN,)]) for name in cost.index}
    flatter = {name: difference(rises, tasks, name, PLAIN) for name in cost.index}
    against = {name: contrast(found, [(name,)], [(SAM,)]) for name in cost.index if name not in (PLAIN, SAM)}
    seeds = count(rows.seed.nunique(), "seed")
    what = (
        f"{seeds}; calibrated on {rows.samples.max():,} unlabelled images per task of the {context.calibration_split} "
        f"split, scored on the {context.evaluation_split} split. Rise: how much the loss on further unlabelled images "
        f"of the {context.calibration_split} split, in nats, mean over tasks, grows within rho = "
        f"{context.params['rho']} along its gradient. "
        "Passes: images sent forward and backward, in multiples of plain descent."
    )
    return View(
        title="Flatness",
        question=(
            "What can stand in for SAM's second pass? Cheaper rules, other neighbourhoods, and averaged iterates as a "
            "control, with the same number of steps."
        ),
        sentences=(
            f"SAM minus plain descent: {stated(better[SAM].these, decimals)}; the rise of the loss, "
            f"{rises.loc[PLAIN].to_numpy().mean():.{SMALL}f} nats without it, changes by "
            f"{stated(flatter[SAM], SMALL, ' nats')} (n = {seeds}).",
            _cheaper(flatter, relative.passed),
            _accuracy(against, decimals),
            basis(better[SAM]),
            "Intervals of the rise, which is measured per task and not per image, are over tasks and seeds.",
        ),
        figures={
            "flatness": Drawing(
                _figure(table, rises, relative.passed, context.width),
                f"Average accuracy over {count(len(tasks), 'task')} (left) and the rise of the loss (right) against "
                f"cost: a small dot per seed, a large one at their mean, over {what}",
            )
        },
        tables={
            "flatness": Frame(
                _table(rows, table, relative, better, flatter, context),
                f"Mean ± sample standard deviation, and paired differences to plain descent with 95 % interval. "
                f"{INTERVALS} Those of the rise: tasks and seeds. Over {what} Merges: models merged, in the same "
                f"multiples.",
            )
        },
        contrasts={
            **{f"{name} minus {PLAIN}": gain for name, gain in better.items() if name != PLAIN},
            **{f"{name} minus {SAM}": gain for name, gain in against.items()},
        },
    )


def title(name: str) -> str:
    """A variant as the report calls it; `every 5` is SAM at every 5th step."""
    return NAMES.get(name, f"SAM {name} steps")


def _cheaper(flatter: Mapping[str, Difference], passes: pd.Series) -> str:
    """What each variant with fewer passes than SAM makes of the rise."""
    each = "; ".join(
        f"{title(name)} (passes × {passes[name]:.2f}) {interval(found, SMALL)}"
        for name, found in flatter.items()
        if name != PLAIN and passes[name] < passes[SAM]
    )
    return (
        f"Change of the rise against plain descent, in nats, with fewer passes than SAM's × {passes[SAM]:.2f}: {each}."
    )


def _accuracy(against: Contrasts, decimals: int) -> str:
    """Which variants differ from SAM in accuracy."""
    clear = [
        f"{title(name)} {interval(one.these, decimals)}" for name, one in against.items() if excludes_zero(one.these)
    ]
    named = f" ({'; '.join(clear)} points)" * bool(clear)
    return (
        f"In accuracy, {len(clear)} of {len(against)} variants differ from SAM by an interval that excludes "
        f"zero{named}, where chance alone would give about {0.05 * len(against):.1f}."
    )


def _table(
    rows: pd.DataFrame,
    table: pd.DataFrame,
    relative: pd.DataFrame,
    better: Contrasts,
    flatter: Mapping[str, Difference],
    context: Context,
) -> pd.DataFrame:
    found = rows.groupby(["setting", "seed"])[["loss", "rise"]].mean()
    return pd.DataFrame(
        [
            {
                "Rule": title(name),
                "Passes, ×": f"{relative.passed[name]:.2f}",
                "Merges, ×": f"{relative.merges[name]:.2f}",
                "Average": spread(table.loc[name].mean(axis=1), context.decimals),
                **_minus(name, better[name], context.decimals + 1),
                "Held-out loss": spread(found.loss[name], SMALL),
                "Rise": spread(found.rise[name], SMALL),
                "Rise minus plain": "" if name == PLAIN else interval(flatter[name], SMALL),
            }
            for name in relative.index
        ]
    )


def _minus(name: str, found: Contrast, decimals: int) -> dict[str, str]:
    """The columns that compare accuracy with plain descent, empty in its own row."""
    shown = {"Minus plain": interval(found.these, decimals), LIKE: edges(found.like, decimals)}
    return dict.fromkeys(shown, "") if name == PLAIN else shown


@mpl.rc_context(STYLE)
def _figure(table: pd.DataFrame, rises: pd.DataFrame, passes: pd.Series, width: float) -> Figure:
    figure = Figure((width, 0.5 * width), layout="constrained")
    panels = figure.subplots(1, 2)
    labels = ("average accuracy (%)", "rise of the held-out loss (nats)")
    for axes, values, label in zip(panels, (table, rises), labels, strict=True):
        for index, name in enumerate(passes.index):
            look = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "linestyle": ""}
            found = values.loc[name].mean(axis=1)
            axes.plot([passes[name]] * len(found), found, markersize=2, alpha=0.5, **look)
            axes.plot(passes[name], found.mean(), markersize=6, label=title(name), **look)
        axes.set(xlabel="passes, in multiples of plain descent", ylabel=label)
        axes.grid(alpha=0.3, linewidth=0.5)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure
