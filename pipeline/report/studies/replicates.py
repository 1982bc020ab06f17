"""Replicates in the report: how far another training of the experts moves a method, and which orders survive it."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.figures import STYLE, Style, styles
from pipeline.report.studies import Context
from pipeline.report.tables import number
from pipeline.report.view import Drawing, Frame, View
from pipeline.report.words import count, edges, interval, percentages
from pipeline.statistics.accuracy import CEILING, FLOOR, MAIN, TWIN
from pipeline.statistics.bootstrap import components
from pipeline.statistics.contrasts import RESAMPLES, Order, order, replicated

RIVALS = (TWIN, "adamerging", "tsv_m")
"""Methods that SAMerging is always compared with."""
TITLE = "Replicates"
QUESTION = (
    "How much do other experts change? Base and experts are trained again with other seeds, on the same images, and "
    "every method runs on each training with the same seeds of calibration."
)
Pair = tuple[str, str]
Runs = Mapping[str, np.ndarray]
"""{method: average accuracy in % [R, S] of R replicates and S seeds}, best mean first."""


def view(rows: pd.DataFrame, context: Context) -> View:
    """`rows`: columns as in `pipeline.studies.replicates`; none where the experts are public."""
    if rows.empty:
        once = f"The experts of {context.suite} are public checkpoints and were trained once: there are no replicates."
        return View(TITLE, QUESTION, (once,))
    runs = _runs(rows)
    merged = {name: values for name, values in runs.items() if name not in (FLOOR, CEILING)}
    drawn = replicated(rows, context.tasks)
    orders = {pair: order(drawn, *pair) for pair in pairs([*merged])}
    n = _n(next(iter(orders.values())))
    looks = styles({name: context.titles[name] for name in merged})
    return View(
        title=TITLE,
        question=QUESTION,
        sentences=tuple(_said(merged, orders, n, context)),
        figures={
            "replicates": Drawing(
                figure(merged, looks, context.width),
                f"Suite {context.suite}. Average accuracy of every merge on every training of the experts: a dot per "
                f"replicate, the mean over seeds. Over {n}, {context.evaluation_split} split.",
            )
        },
        tables={
            "methods": Frame(
                _methods(runs, context),
                f"Average accuracy in %: mean, lowest and highest over replicates, of the mean over seeds; standard "
                f"deviations in points: over replicates, of the mean over seeds, and over seeds, within replicates; "
                f"share: of the variance of a run, what the training of the experts explains; committed: the "
                f"experts of all other tables. Over {n}, {context.evaluation_split} split.",
            ),
            "pairs": Frame(
                _pairs(orders, context),
                f"Differences of average accuracy in points with 95 % intervals: on the committed experts alone (test "
                f"images and seeds are drawn), over all replicates (replicates too), and on tasks like these (tasks, "
                f"seeds and replicates); same sign: replicates whose difference has the sign of the mean. Over {n}, "
                f"{context.evaluation_split} split.",
            ),
        },
        contrasts={f"{method} minus {other}": gap for (method, other), gap in orders.items()},
    )


def pairs(ranked: Sequence[str]) -> list[Pair]:
    """SAMerging and its rivals, then every method and the next in the ranking; each pair once."""
    chosen = [(MAIN, name) for name in RIVALS]
    return chosen + [pair for pair in pairwise(ranked) if pair not in chosen and pair[::-1] not in chosen]


def _runs(rows: pd.DataFrame) -> Runs:
    averages = percentages(rows).groupby(["method", "replicate", "seed"]).accuracy.mean()
    ranked = averages.groupby("method").mean().round(9).sort_values(ascending=False, kind="stable").index
    return {name: averages[name].unstack("seed").to_numpy() for name in ranked}


def _n(compared: Order) -> str:
    """What every number is over."""
    replicates, seeds = count(len(compared.each), "replicate"), count(compared.these.seeds, "seed")
    return f"{replicates} and {seeds} of the calibrated methods, {count(compared.images, 'test image')}"


def _said(runs: Runs, orders: Mapping[Pair, Order], n: str, context: Context) -> list[str]:
    titles, decimals = context.titles, context.decimals + 1
    texts = {
        pair: f"{titles[pair[0]]} minus {titles[pair[1]]} {gap.these.mean:+.{decimals}f} points "
        f"{edges(gap.these, decimals)}, {gap.same} of {len(gap.each)}"
        for pair, gap in orders.items()
    }
    lasting = [texts[pair] for pair, gap in orders.items() if gap.holds]
    passing = [texts[pair] for pair, gap in orders.items() if not gap.holds]
    said = []
    if lasting:
        said.append(
            f"Facts about the methods are {len(lasting)} of {len(orders)} orders (the interval over replicates "
            f"excludes zero, and every replicate has the sign of the mean): {'; '.join(lasting)} (n = {n})."
        )
    if passing:
        said.append(
            f"Facts about these experts at most are {len(passing)} of {len(orders)} orders (the interval includes "
            f"zero, or not every replicate has the sign of the mean): {'; '.join(passing)} (n = {n})."
        )
    spreads = [
        f"{titles[name]} {number(spread.replicates, decimals)} against {number(spread.seeds, decimals)} "
        f"({number(100 * spread.share, 0)} %)"
        for name, spread in ((name, components(values)) for name, values in runs.items() if values.shape[1] > 1)
    ]
    if spreads:
        said.append(
            "Standard deviation of the average accuracy in points, over replicates against over seeds (in brackets: of "
            f"the variance of a run, what the training of the experts explains): {'; '.join(spreads)} (n = {n}). The ± "
            "of every other table is over seeds alone."
        )
    gap = next(iter(orders.values()))
    replicates, seeds = count(len(gap.each), "replicate"), count(gap.these.seeds, "seed")
    tasks = count(gap.these.tasks, "task")
    said.append(
        f"Intervals are of 95 %, of {RESAMPLES:,} bootstrap draws of the paired differences, not adjusted for their "
        f"number: over the {count(gap.images, 'test image')} of these {tasks}, {seeds} and {replicates} or, on tasks "
        f"like these, over {tasks}, {seeds} and {replicates}. With {replicates} they are rough and, if anything, too "
        "narrow."
    )
    return said


def _methods(runs: Runs, context: Context) -> pd.DataFrame:
    rows = []
    for name, values in runs.items():
        means, spread, decimals = values.mean(axis=1), components(values), context.decimals
        rows.append(
            {
                "Method": context.titles[name],
                "Mean": number(means.mean(), decimals),
                "Lowest": number(means.min(), decimals),
                "Highest": number(means.max(), decimals),
                "SD over replicates": number(spread.replicates, decimals + 1),
                "SD over seeds": number(spread.seeds, decimals + 1),
                "Share, %": number(100 * spread.share, 0),
                "Committed": number(means[0], decimals),
            }
        )
    return pd.DataFrame(rows)


def _pairs(orders: Mapping[Pair, Order], context: Context) -> pd.DataFrame:
    titles, decimals = context.titles, context.decimals + 1
    return pd.DataFrame(
        [
            {
                "Pair": f"{titles[method]} minus {titles[other]}",
                "Committed experts": interval(gap.committed, decimals),
                "All replicates": interval(gap.these, decimals),
                "Tasks like these": edges(gap.like, decimals),
                "Same sign": f"{gap.same} of {len(gap.each)}",
            }
            for (method, other), gap in orders.items()
        ]
    )


@mpl.rc_context(STYLE)
def figure(runs: Runs, looks: Mapping[str, Style], width: float) -> Figure:
    """A row per method, best mean first: a dot per replicate, open for the committed experts, a bar at their mean."""
    drawn = Figure((width, 0.22 * len(runs) + 0.9), layout="constrained")
    axes = drawn.subplots()
    for row, (name, values) in enumerate(runs.items()):
        means, kind = values.mean(axis=1), {"color": looks[name].colour, "linestyle": ""}
        labels = ("mean", "another training", "committed experts") if row == 0 else (None,) * 3
        axes.plot([means.mean()], [row], marker="|", markersize=11, label=labels[0], **kind)
        axes.plot(means[1:], [row] * (len(means) - 1), marker="o", alpha=0.6, label=labels[1], **kind)
        axes.plot(means[:1], [row], marker="o", markerfacecolor="white", label=labels[2], **kind)
    axes.set(yticks=range(len(runs)), yticklabels=[looks[name].title for name in runs])
    axes.set(xlabel="average accuracy (%)", ylim=(len(runs) - 0.5, -0.5))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3, linewidth=0.5)
    drawn.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return drawn
