"""Replicates in the report: how far another training of the experts moves a method, and which orders survive it."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.figures import STYLE, Style
from pipeline.report.studies import Context
from pipeline.report.studies._shared import add_legend
from pipeline.report.tables import format_number
from pipeline.report.view import Drawing, Frame, View
from pipeline.report.words import METHOD, count, edges, interval, percentages
from pipeline.statistics.accuracy import CEILING, FLOOR, MAIN, TWIN
from pipeline.statistics.contrasts import ReplicatedContrast, contrast_replicates, mark_replicates
from pipeline.statistics.intervals import variance_components

RIVALS = (TWIN, "adamerging", "tsv_m")
"""Methods that SAMerging is always compared with."""
TITLE = "Replicates"
QUESTION = (
    "How much do other experts change? Base and experts are trained again with other seeds, on the same examples, and "
    "every method runs on each training with the same seeds of calibration."
)
Averages = Mapping[str, np.ndarray]
"""{method: average accuracy in % [R, S] of R replicates and S seeds}, best mean first."""


def view(rows: pd.DataFrame, context: Context) -> View:
    """`rows`: columns as in `pipeline.studies.replicates`."""
    averages, marks = _average(rows), mark_replicates(rows, context.tasks, context.clusters)
    merged = {name: values for name, values in averages.items() if name not in (FLOOR, CEILING)}
    gaps = {
        (method, other): (context.minus(method, other), contrast_replicates(marks, method, other))
        for method, other in list_pairs([*merged])
    }
    orders, first, digits = [*gaps.values()], next(iter(gaps.values()))[1], context.digits
    replicates, seeds = count(len(first.each), "replicate"), count(first.these.seeds, "seed")
    n = f"{replicates} and {seeds} of the calibrated methods, {count(first.examples, 'test example')}"
    examples, tasks = count(first.examples, "test example"), count(first.these.tasks, "task")
    return View(
        title=TITLE,
        question=QUESTION,
        sentences=(
            *_describe_gap(averages, n, context),
            *_describe_orders(orders, n, digits, len(list_shown([*merged]))),
            *_describe_deviations(averages, n, context),
            f"{METHOD} over the {examples} of these {tasks}, {seeds} and {replicates} or, on tasks like these, over "
            f"{tasks}, {seeds} and {replicates}.",
        ),
        figures={
            "replicates": Drawing(
                _draw(merged, context.styles(merged), context.width),
                f"Suite {context.suite}. Average accuracy of every merge on every training of the experts: a dot per "
                f"replicate, the mean over seeds. Over {n}, {context.evaluation_split} split.",
            )
        },
        tables={
            "methods": Frame(
                pd.DataFrame(
                    _summarise(context.titles[name], values, context.decimals) for name, values in averages.items()
                ),
                f"Average accuracy in %: mean, lowest and highest over replicates, of the mean over seeds; standard "
                f"deviations in points: over replicates, of the mean over seeds, and over seeds, within replicates; "
                f"share: of the variance of a run, what the training of the experts explains; committed: the "
                f"experts of all other tables. Over {n}, {context.evaluation_split} split.",
            ),
            "pairs": Frame(
                pd.DataFrame(
                    {
                        "Pair": title,
                        "Committed experts": interval(gap.committed, digits),
                        "All replicates": interval(gap.these, digits),
                        "Tasks like these": edges(gap.like, digits),
                        "Same sign": f"{gap.same} of {len(gap.each)}",
                    }
                    for title, gap in orders
                ),
                f"Differences of average accuracy in points with 95 % intervals: on the committed experts alone "
                f"(over test examples and seeds), over all replicates (replicates too), and on tasks like these "
                f"(tasks, seeds and replicates); same sign: replicates whose difference has the sign of the mean. Over "
                f"{n}, {context.evaluation_split} split.",
            ),
        },
        contrasts={f"{method} minus {other}": gap for (method, other), (_, gap) in gaps.items()},
    )


def list_shown(ranked: Sequence[str]) -> list[tuple[str, str]]:
    """List SAMerging and its rivals, then every method and the next in the ranking; each pair once."""
    pairs = [(MAIN, name) for name in RIVALS]
    return pairs + [pair for pair in pairwise(ranked) if pair not in pairs and pair[::-1] not in pairs]


def list_pairs(ranked: Sequence[str]) -> list[tuple[str, str]]:
    """List all pairs of methods: those of `list_shown`, then the others, the better one first."""
    shown = list_shown(ranked)
    return shown + [pair for pair in combinations(ranked, 2) if pair not in shown and pair[::-1] not in shown]


def _average(rows: pd.DataFrame) -> Averages:
    averages = percentages(rows).groupby(["method", "replicate", "seed"]).accuracy.mean()
    ranked = averages.groupby("method").mean().round(9).sort_values(ascending=False, kind="stable").index
    return {str(name): averages[name].unstack("seed").to_numpy() for name in ranked}


def _describe_gap(averages: Averages, n: str, context: Context) -> Iterator[str]:
    """Say how much of the gap SAMerging closes, if every training has one; the first is the committed one."""
    floor, ceiling, main = (averages[name].mean(axis=1) for name in (FLOOR, CEILING, MAIN))
    if not (ceiling > floor).all():
        return
    closed, digits = 100 * (main - floor) / (ceiling - floor), context.decimals
    yield (
        f"{context.titles[MAIN]} closes {closed[0]:.{digits}f} % of the gap between zero-shot and the experts on the "
        f"committed training; over all {len(closed)} it closes {closed.min():.{digits}f} to {closed.max():.{digits}f} "
        f"%, {closed.mean():.{digits}f} % on average (n = {n})."
    )


def _describe_orders(
    orders: Sequence[tuple[str, ReplicatedContrast]], n: str, digits: int, shown: int
) -> Iterator[str]:
    """Describe the orders that survive another training, the first `shown` by their numbers, and those that do not."""
    for holds, about, reason in (
        (True, "the methods", "the interval over replicates excludes zero, and every replicate has"),
        (False, "these experts at most", "the interval includes zero, or not every replicate has"),
    ):
        alike = [(place, title, gap) for place, (title, gap) in enumerate(orders) if gap.holds == holds]
        texts = [
            f"{title} {gap.these.mean:+.{digits}f} points {edges(gap.these, digits)}, {gap.same} of {len(gap.each)}"
            for place, title, gap in alike
            if place < shown or not holds
        ]
        if alike:
            among = "among them, of SAMerging and of neighbours in the ranking, " * (len(texts) < len(alike))
            yield (
                f"Facts about {about} are {len(alike)} of {len(orders)} orders of two methods ({reason} the sign of "
                f"the mean): {among}{'; '.join(texts)} (n = {n})."
            )


def _describe_deviations(averages: Averages, n: str, context: Context) -> Iterator[str]:
    """Compare the deviation over replicates with that over seeds, of the methods with several seeds."""
    parts = []
    for name, values in averages.items():
        if values.shape[1] > 1:
            found, digits = variance_components(values), context.digits
            deviations = f"{format_number(found.replicates, digits)} against {format_number(found.seeds, digits)}"
            parts.append(f"{context.titles[name]} {deviations} ({format_number(100 * found.share, 0)} %)")
    if parts:
        yield (
            f"Standard deviation of the average accuracy in points, over replicates against over seeds (in brackets: "
            f"of the variance of a run, what the training of the experts explains): {'; '.join(parts)} (n = {n}). The "
            f"± of every other table is over seeds alone."
        )


def _summarise(title: str, values: np.ndarray, decimals: int) -> dict[str, str]:
    """Return a method's row of the table."""
    means, found = values.mean(axis=1), variance_components(values)
    return {
        "Method": title,
        "Mean": format_number(means.mean(), decimals),
        "Lowest": format_number(means.min(), decimals),
        "Highest": format_number(means.max(), decimals),
        "SD over replicates": format_number(found.replicates, decimals + 1),
        "SD over seeds": format_number(found.seeds, decimals + 1),
        "Share, %": format_number(100 * found.share, 0),
        "Committed": format_number(means[0], decimals),
    }


@mpl.rc_context(STYLE)
def _draw(averages: Averages, looks: Mapping[str, Style], width: float) -> Figure:
    """Draw a row per method, best mean first: dots are replicates, the committed one open, and a bar is their mean."""
    figure = Figure((width, 0.22 * len(averages) + 0.9), layout="constrained")
    axes = figure.subplots()
    for row, (name, values) in enumerate(averages.items()):
        means, style = values.mean(axis=1), {"color": looks[name].colour, "linestyle": ""}
        labels = ("mean", "another training", "committed experts") if row == 0 else (None,) * 3
        axes.plot([means.mean()], [row], marker="|", markersize=11, label=labels[0], **style)
        axes.plot(means[1:], [row] * (len(means) - 1), marker="o", alpha=0.6, label=labels[1], **style)
        axes.plot(means[:1], [row], marker="o", markerfacecolor="white", label=labels[2], **style)
    axes.set(yticks=range(len(averages)), yticklabels=[looks[name].title for name in averages])
    axes.set(xlabel="average accuracy (%)", ylim=(len(averages) - 0.5, -0.5))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3, linewidth=0.5)
    return add_legend(figure, axes, 3)
