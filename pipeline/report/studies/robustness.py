"""Robustness in the report: accuracy on corrupted images, and whether sharpness helps there."""

from collections.abc import Mapping

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.figures import STYLE, Style, styles
from pipeline.report.studies import Context
from pipeline.report.view import Drawing, Frame, View
from pipeline.report.words import ZERO, compare, count, differs, interval, listed, percentages, side_by_side
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
"""Panels side by side."""


def view(rows: pd.DataFrame, context: Context) -> View:
    """`rows`: columns as in `pipeline.studies.robustness`."""
    frame = percentages(rows)
    names = [*dict.fromkeys(frame.method)]
    kinds = [name for name in dict.fromkeys(frame.corruption) if name != CLEAN]
    clean, changed = frame[frame.corruption == CLEAN], frame[frame.corruption != CLEAN]
    tables = {name: side_by_side(changed[changed.corruption == name], "task", "accuracy") for name in kinds}
    both = (side_by_side(clean, "task", "accuracy"), sum(tables.values()) / len(tables))
    looks = styles({name: context.titles[name] for name in names})
    scope = (
        f"{count(int(clean[clean.method == FLOOR].total.sum()), 'image')} of {count(len(context.tasks), 'task')} "
        f"of the {context.evaluation_split} split; {count(frame[frame.seed >= 0].seed.nunique(), 'seed')} of the "
        f"calibrated methods"
    )
    strengths = ", ".join(map(str, sorted(changed.severity.unique())))
    return View(
        title="Robustness",
        question=(
            "How much do merges lose on images that are blurred, noisy or compressed, and does sharpness-aware "
            "calibration, on clean images, lose less?"
        ),
        sentences=tuple(_said(tables, *both, context)),
        figures={
            "robustness": Drawing(
                figure(frame, kinds, looks, context.width),
                f"Suite {context.suite}. Average accuracy against the severity of a corruption; 0: the same images, "
                f"clean. Means over {scope}. Intervals in the text are "
                f"bootstraps over seeds and tasks, not over images.",
            )
        },
        tables={
            "robustness": Frame(
                _table(tables, *both, names, context),
                f"Accuracy in %, mean over severities {strengths} of each corruption; Corrupted: mean over all of "
                f"them; Drop: clean minus corrupted, in points; ±: standard deviation over seeds. Over {scope}.",
            )
        },
    )


def _said(
    tables: Mapping[str, pd.DataFrame], clean: pd.DataFrame, corrupted: pd.DataFrame, context: Context
) -> list[str]:
    tasks, titles, decimals = [*clean], context.titles, context.decimals
    lost = {name: compare(clean - corrupted, name, ZERO) for name in (MAIN, TWIN, CEILING, FLOOR)}
    parts = [f"{titles[name]} {interval(found, decimals, '')}" for name, found in lost.items()]
    sample = f"n = {count(lost[MAIN].seeds, 'seed')} of the calibrated methods x {count(len(tasks), 'task')}"
    averages = corrupted.drop(ZERO, level="method").mean(axis=1).groupby("method").mean()
    best = averages.drop([FLOOR, CEILING]).idxmax()
    hardest = min(tables, key=lambda name: tables[name].loc[MAIN].to_numpy().mean())
    gains = {name: compare(table, MAIN, TWIN) for name, table in tables.items()}
    clear = [
        f"{TITLES[name]} ({found.mean:+.{decimals + 1}f})"
        for name, found in gains.items()
        if found.low > 0 or found.high < 0
    ]
    pair = f"{titles[MAIN]} minus {titles[TWIN]}"
    return [
        f"Points lost to corruption, mean over {count(len(tables), 'corruption')}, with 95 % intervals: "
        f"{', '.join(parts)} ({sample}).",
        f"The best merge on corrupted images is that of {titles[best]}, {averages[best]:.{decimals}f} % (experts "
        f"{averages[CEILING]:.{decimals}f} %, zero-shot {averages[FLOOR]:.{decimals}f} %; {sample}); the hardest "
        f"corruption for {titles[MAIN]} is '{TITLES[hardest]}'.",
        f"{pair} on corrupted images: {differs(compare(corrupted, MAIN, TWIN), decimals + 1)}; on the same "
        f"images clean: {differs(compare(clean, MAIN, TWIN), decimals + 1)}.",
        f"What sharpness saves of the drop: {differs(compare(corrupted - clean, MAIN, TWIN), decimals + 1)}. "
        f"Of the intervals of {pair} for single corruptions {len(clear)} of {len(gains)} exclude zero"
        f"{': ' + listed(clear) if clear else ''}.",
    ]


def _table(
    tables: Mapping[str, pd.DataFrame],
    clean: pd.DataFrame,
    corrupted: pd.DataFrame,
    names: list[str],
    context: Context,
) -> pd.DataFrame:
    columns = {"Clean": clean, **{TITLES[name]: table for name, table in tables.items()}}
    columns |= {"Corrupted": corrupted, "Drop": clean - corrupted}
    return pd.DataFrame(
        [
            {"Method": context.titles[name]}
            | {title: _cell(table.loc[name].mean(axis=1), context.decimals) for title, table in columns.items()}
            for name in names
        ]
    )


def _cell(averages: pd.Series, decimals: int) -> str:
    """The mean over seeds, with its deviation if seeds differ at all."""
    spread = f" ± {averages.std():.{decimals}f}" if averages.nunique() > 1 else ""
    return f"{averages.mean():.{decimals}f}{spread}"


@mpl.rc_context(STYLE)
def figure(frame: pd.DataFrame, kinds: list[str], looks: Mapping[str, Style], width: float) -> Figure:
    """A panel per corruption: accuracy over tasks and seeds against severity, a line per method."""
    columns = min(PANELS, len(kinds) + 1)
    lines = -(-(len(kinds) + 1) // columns)
    drawn = Figure((width, 1.75 * lines), layout="constrained")
    panels = drawn.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat
    clean = frame[frame.corruption == CLEAN].groupby("method").accuracy.mean()
    for axes, name in zip(panels, kinds, strict=False):
        means = frame[frame.corruption == name].groupby(["method", "severity"]).accuracy.mean()
        for method, look in looks.items():
            values = pd.concat([pd.Series({0: clean[method]}), means[method]])
            axes.plot(
                values.index, values, color=look.colour, marker=look.marker, linestyle=look.line, label=look.title,
                markersize=3,
            )  # fmt: skip
        axes.set(title=TITLES[name], xticks=[*values.index])
        axes.tick_params(labelbottom=True)
        axes.grid(alpha=0.3, linewidth=0.5)
    for axes in panels[len(kinds) :]:
        axes.set_axis_off()
    panels[len(kinds)].legend(*panels[0].get_legend_handles_labels(), loc="center", handlelength=2.6, fontsize=7)
    drawn.supxlabel("severity", fontsize=8)
    drawn.supylabel("average accuracy (%)", fontsize=8)
    return drawn
