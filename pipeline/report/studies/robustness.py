"""Robustness in the report: accuracy on corrupted images, and whether sharpness helps there."""

import operator
from collections.abc import Mapping, Sequence
from functools import reduce

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.figures import STYLE
from pipeline.report.studies import Context
from pipeline.report.studies._shared import line_style
from pipeline.report.view import Drawing, Frame, View
from pipeline.report.words import (
    ZERO,
    compare,
    count,
    differs,
    excludes_zero,
    interval,
    listed,
    percentages,
    side_by_side,
    spread,
)
from pipeline.statistics.accuracy import CEILING, FLOOR, MAIN, TWIN

CLEAN = "clean"
TITLES = {
    "motion_blur": "Motion blur",
    "impulse_noise": "Impulse noise",
    "gaussian_noise": "Gaussian noise",
    "pixelate": "Pixelate",
    "spatter": "Spatter",
    "contrast": "Contrast",
    "jpeg": "JPEG",
}
PANELS = 4
"""Panels next to each other."""


def view(rows: pd.DataFrame, context: Context) -> View:
    """`rows`: columns as in `pipeline.studies.robustness`."""
    frame = percentages(rows)
    kinds = [str(name) for name in dict.fromkeys(frame.corruption) if name != CLEAN]
    severities = ", ".join(map(str, sorted(frame[frame.corruption != CLEAN].severity.unique())))
    tables = {name: side_by_side(frame[frame.corruption == name], "task", "accuracy") for name in (CLEAN, *kinds)}
    clean = tables.pop(CLEAN)
    corrupted = reduce(operator.add, tables.values()) / len(tables)
    images = frame[(frame.corruption == CLEAN) & (frame.method == FLOOR)].total.sum()
    scope = (
        f"{count(int(images), 'image')} of {count(len(context.tasks), 'task')} of the {context.evaluation_split} "
        f"split; {count(frame[frame.seed >= 0].seed.nunique(), 'seed')} of the calibrated methods"
    )
    columns = {"Clean": clean, **{TITLES[name]: table for name, table in tables.items()}}
    columns |= {"Corrupted": corrupted, "Drop": clean - corrupted}
    return View(
        title="Robustness",
        question=(
            "How much do merges lose on images that are blurred, noisy or compressed, and does sharpness-aware "
            "calibration, on clean images, lose less?"
        ),
        sentences=_describe(tables, clean, corrupted, context),
        figures={
            "robustness": Drawing(
                _draw(frame, kinds, context),
                f"Suite {context.suite}. Average accuracy against the severity of a corruption; 0: the same images, "
                f"clean. Means over {scope}. Intervals in the text are "
                f"over seeds and tasks, not over images.",
            )
        },
        tables={
            "robustness": Frame(
                pd.DataFrame(
                    {"Method": context.titles[name]}
                    | {title: _cell(table.loc[name].mean(axis=1), context.decimals) for title, table in columns.items()}
                    for name in dict.fromkeys(frame.method)
                ),
                f"Accuracy in %, mean over severities {severities} of each corruption; Corrupted: mean over all of "
                f"them; Drop: clean minus corrupted, in points; ±: standard deviation over seeds. Over {scope}.",
            )
        },
    )


def _describe(
    tables: Mapping[str, pd.DataFrame], clean: pd.DataFrame, corrupted: pd.DataFrame, context: Context
) -> tuple[str, ...]:
    titles, decimals, digits = context.titles, context.decimals, context.digits
    losses = {name: compare(clean - corrupted, name, ZERO) for name in (MAIN, TWIN, CEILING, FLOOR)}
    parts = [f"{titles[name]} {interval(loss, decimals, '')}" for name, loss in losses.items()]
    sample = f"n = {count(losses[MAIN].seeds, 'seed')} of the calibrated methods x {count(clean.shape[1], 'task')}"
    averages = corrupted.drop(ZERO, level="method").mean(axis=1).groupby("method").mean()
    best = str(averages.drop([FLOOR, CEILING]).idxmax())
    hardest = min(tables, key=lambda name: tables[name].loc[MAIN].to_numpy().mean())
    gains = {name: compare(table, MAIN, TWIN) for name, table in tables.items()}
    clear = [f"{TITLES[name]} ({gain.mean:+.{digits}f})" for name, gain in gains.items() if excludes_zero(gain)]
    pair = context.minus(MAIN, TWIN)
    on_corrupted, on_clean, on_drop = (
        differs(compare(table, MAIN, TWIN), digits) for table in (corrupted, clean, corrupted - clean)
    )
    return (
        f"Points lost to corruption, mean over {count(len(tables), 'corruption')}, with 95 % intervals: "
        f"{', '.join(parts)} ({sample}).",
        f"The best merge on corrupted images is that of {titles[best]}, {averages[best]:.{decimals}f} % (experts "
        f"{averages[CEILING]:.{decimals}f} %, zero-shot {averages[FLOOR]:.{decimals}f} %; {sample}); the hardest "
        f"corruption for {titles[MAIN]} is '{TITLES[hardest]}'.",
        f"{pair} on corrupted images: {on_corrupted}; on the same images clean: {on_clean}.",
        f"What sharpness saves of the drop: {on_drop}. Of the intervals of {pair} for single corruptions {len(clear)} "
        f"of {len(gains)} exclude zero{': ' + listed(clear) if clear else ''}.",
    )


def _cell(averages: pd.Series, decimals: int) -> str:
    """Return the mean over seeds, with its deviation if seeds differ at all."""
    return spread(averages if averages.nunique() > 1 else averages.iloc[:1], decimals)


@mpl.rc_context(STYLE)
def _draw(frame: pd.DataFrame, kinds: Sequence[str], context: Context) -> Figure:
    """Draw a panel per corruption: accuracy over tasks and seeds against severity, a line per method."""
    columns = min(PANELS, len(kinds) + 1)
    lines = -(-(len(kinds) + 1) // columns)
    figure = Figure((context.width, 1.75 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat
    clean = frame[frame.corruption == CLEAN].groupby("method").accuracy.mean()
    looks = context.styles(dict.fromkeys(frame.method))
    for axes, name in zip(panels, kinds, strict=False):
        means = frame[frame.corruption == name].groupby(["severity", "method"]).accuracy.mean().unstack("method")
        for method, look in looks.items():
            values = [clean[method], *means[method]]
            axes.plot([0, *means.index], values, markersize=3, **line_style(look))
        axes.set(title=TITLES[name], xticks=[0, *means.index])
        axes.tick_params(labelbottom=True)
        axes.grid(alpha=0.3, linewidth=0.5)
    for axes in panels[len(kinds) :]:
        axes.set_axis_off()
    panels[len(kinds)].legend(*panels[0].get_legend_handles_labels(), loc="center", handlelength=2.6, fontsize=7)
    figure.supxlabel("severity", fontsize=8)
    figure.supylabel("average accuracy (%)", fontsize=8)
    return figure
