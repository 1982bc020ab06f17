"""Flatness in the report: what can stand in for SAM's second pass, how flat it leaves the loss, what it costs."""

from itertools import cycle

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.figures import COLOURS, MARKERS, STYLE
from pipeline.report.studies import Context
from pipeline.report.studies._shared import add_legend, like_column, two_panels
from pipeline.report.view import Drawing, Frame, View
from pipeline.report.words import INTERVALS, accuracies, basis, count, excludes_zero, interval, spread, stated
from pipeline.statistics.contrasts import contrast_settings, mark_settings, paired_difference

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


def view(rows: pd.DataFrame, context: Context) -> View:
    """`rows`: scores, cost, held-out loss and its rise of every variant, seed and task."""
    tasks, digits = list(context.tasks), context.digits
    average = accuracies(rows, ("setting",), tasks).mean(axis=1)
    marks = mark_settings(rows, ("setting",), tasks, context.clusters)
    rises = rows.pivot(index=["setting", "seed"], columns="task", values="rise")[tasks]
    cost = rows.groupby("setting", sort=False)[["passed", "merges"]].mean()
    relative = cost / cost.loc[PLAIN]
    passes, variants = relative.passed, [str(name) for name in cost.index]
    better = {name: contrast_settings(marks, [(name,)], [(PLAIN,)]) for name in variants}
    flatter = {name: paired_difference(rises, tasks, name, PLAIN) for name in variants}
    against = {name: contrast_settings(marks, [(name,)], [(SAM,)]) for name in variants if name not in (PLAIN, SAM)}
    cheaper = [
        f"{_title(name)} (passes × {passes[name]:.2f}) {interval(change, SMALL)}"
        for name, change in flatter.items()
        if name != PLAIN and passes[name] < passes[SAM]
    ]
    clear = [
        f"{_title(name)} {interval(gain.these, digits)}" for name, gain in against.items() if excludes_zero(gain.these)
    ]
    named = f" ({'; '.join(clear)} points)" if clear else ""
    seeds = count(rows.seed.nunique(), "seed")
    scope = (
        f"{seeds}; calibrated on {rows.samples.max():,} unlabelled examples per task of the "
        f"{context.calibration_split} split, scored on the {context.evaluation_split} split. Rise: how much the loss "
        f"on further unlabelled examples of the {context.calibration_split} split, in nats, mean over tasks, grows "
        f"within rho = {context.params['rho']} along its gradient. "
        "Passes: examples sent forward and backward, in multiples of plain descent."
    )
    losses = rows.groupby(["setting", "seed"])[["loss", "rise"]].mean()

    def compare_with_plain(name: str) -> dict[str, str]:
        gain = better[name]
        cells = {"Minus plain": interval(gain.these, digits), **like_column(gain, digits)}
        return dict.fromkeys(cells, "") if name == PLAIN else cells

    return View(
        title="Flatness",
        question=(
            "What can stand in for SAM's second pass? Cheaper rules, other neighbourhoods, and averaged iterates as a "
            "control, with the same number of steps."
        ),
        sentences=(
            f"SAM minus plain descent: {stated(better[SAM].these, digits)}; the rise of the loss, "
            f"{rises.loc[PLAIN].to_numpy().mean():.{SMALL}f} nats without it, changes by "
            f"{stated(flatter[SAM], SMALL, ' nats')} (n = {seeds}).",
            f"Change of the rise against plain descent, in nats, with fewer passes than SAM's × {passes[SAM]:.2f}: "
            f"{'; '.join(cheaper)}.",
            f"In accuracy, {len(clear)} of {len(against)} variants differ from SAM by an interval that excludes zero"
            f"{named}, where chance alone would give about {0.05 * len(against):.1f}.",
            basis(better[SAM]),
            "Intervals of the rise, which is measured per task and not per example, are over tasks and seeds.",
        ),
        figures={
            "flatness": Drawing(
                _draw(average, rises.mean(axis=1), passes, context.width),
                f"Average accuracy over {count(len(tasks), 'task')} (left) and the rise of the loss (right) against "
                f"cost: a small dot per seed, a large one at their mean, over {scope}",
            )
        },
        tables={
            "flatness": Frame(
                pd.DataFrame(
                    {
                        "Rule": _title(name),
                        "Passes, ×": f"{passes[name]:.2f}",
                        "Merges, ×": f"{relative.merges[name]:.2f}",
                        "Average": spread(average[name], context.decimals),
                        **compare_with_plain(name),
                        "Held-out loss": spread(losses.loss[name], SMALL),
                        "Rise": spread(losses.rise[name], SMALL),
                        "Rise minus plain": "" if name == PLAIN else interval(flatter[name], SMALL),
                    }
                    for name in variants
                ),
                f"Mean ± sample standard deviation, and paired differences to plain descent with 95 % interval. "
                f"{INTERVALS} Those of the rise: tasks and seeds. Over {scope} Merges: models merged, in the same "
                f"multiples.",
            )
        },
        contrasts={
            **{f"{name} minus {PLAIN}": gain for name, gain in better.items() if name != PLAIN},
            **{f"{name} minus {SAM}": gain for name, gain in against.items()},
        },
    )


def _title(name: str) -> str:
    """Return what the report calls a variant; `every 5` is SAM at every 5th step."""
    return NAMES.get(name, f"SAM {name} steps")


@mpl.rc_context(STYLE)
def _draw(average: pd.Series, rises: pd.Series, passes: pd.Series, width: float) -> Figure:
    figure, *panels = two_panels(width, 0.5, "average accuracy (%)", "rise of the held-out loss (nats)")
    for axes, values in zip(panels, (average, rises), strict=True):
        for name, colour, marker in zip(passes.index, cycle(COLOURS), cycle(MARKERS), strict=False):
            style, runs = {"color": colour, "marker": marker, "linestyle": ""}, values[name]
            axes.plot([passes[name]] * len(runs), runs, markersize=2, alpha=0.5, **style)
            axes.plot(passes[name], runs.mean(), markersize=6, label=_title(str(name)), **style)
        axes.set(xlabel="passes, in multiples of plain descent")
        axes.grid(alpha=0.3, linewidth=0.5)
    return add_legend(figure, panels[0], 4)
