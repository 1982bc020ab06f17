"""Sensitivity in the report: curves per knob, and how much of a method's accuracy hangs on each."""

from collections.abc import Iterator, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.figures import STYLE, Style, styles
from pipeline.report.studies import Context
from pipeline.report.studies._shared import count_seeds, line_style, plot_range
from pipeline.report.view import Drawing, Frame, View
from pipeline.report.words import basis, count, edges, percentages, stated
from pipeline.statistics.accuracy import AVERAGE, MAIN
from pipeline.statistics.contrasts import Contrast, contrast_settings, mark_settings

TITLES = {
    "rho": "radius ρ of SAM",
    "temperature": "temperature",
    "initial_coefficient": "initial coefficient",
    "lr": "learning rate",
    "steps": "steps",
    "scale": "factor of the merged delta",
}
LOGARITHMIC = ("temperature", "lr", "steps", "scale")
CLOSE = 1.0
"""Points below the best value of a grid that count as good."""


def tabulate_knobs(rows: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Tabulate accuracies in %: a row per method, knob, value and seed (-1 without randomness), tasks and average."""
    index = ["method", "knob", "value", "published", "seed"]
    wide = percentages(rows).pivot(index=index, columns="task", values="accuracy")[list(tasks)]
    return wide.assign(**{AVERAGE: wide.mean(axis=1, skipna=False)}).reset_index()


def measure_brittleness(runs: pd.DataFrame) -> pd.DataFrame:
    """Measure every method and knob by the means over seeds of `tabulate_knobs`.

    Columns: worst, best and published accuracy; their range; share of values within CLOSE of the best; values; seeds.
    """
    measured = []
    for (method, knob), part in runs.groupby(["method", "knob"], sort=False):
        means = part.groupby(["value", "published"])[AVERAGE].mean()
        published = float(means.xs(1, level="published").iloc[0])
        low, high = float(means.min()), float(means.max())
        share = float((means >= high - CLOSE).mean())
        measured.append((method, knob, low, high, published, high - low, share, len(means), part.seed.nunique()))
    columns = ["method", "knob", "worst", "best", "published", "range", "share", "values", "seeds"]
    return pd.DataFrame(measured, columns=columns)


def view(rows: pd.DataFrame, context: Context) -> View:
    """`rows`: the study's table."""
    runs = tabulate_knobs(rows, context.tasks)
    measured, looks = measure_brittleness(runs), styles(context.titles)
    learned = runs[runs.knob != "scale"]
    scored = f"average accuracy over {len(context.tasks)} tasks of the {context.evaluation_split} split"
    seeds = count(learned.seed.nunique(), "seed")
    protocol = f"{scored}; calibrated methods: on {context.calibration_split} examples, {seeds}"
    shown = measured.assign(
        method=measured.method.map(context.titles), knob=measured.knob.map(TITLES), share=100 * measured.share
    ).round(context.decimals)
    gains = _contrast_radii(rows, context)
    return View(
        title="Sensitivity",
        question="How much of a method's accuracy hangs on its knobs, turned one at a time?",
        sentences=(
            *(
                f"{context.titles[MAIN]} with ρ = {radius:g} minus ρ = 0: {stated(gain.these, context.digits)}; on "
                f"tasks like these {edges(gain.like, context.digits)} ({count_seeds(gain.these)})."
                for radius, gain in gains.items()
            ),
            *map(basis, [*gains.values()][:1]),
            *_describe_ranges(measured, context),
        ),
        figures={
            "knobs": Drawing(
                _draw_curves(learned, looks, context.width),
                f"One knob at a time, the others as in params.yaml (dotted: its values): {protocol}; mean, and the "
                f"least to the greatest over seeds.",
            ),
            "scale": Drawing(
                _draw_curves(runs[runs.knob == "scale"], looks, context.width),
                f"The merged delta of data-free methods times a factor (dotted: the scale of params.yaml): {scored}; "
                f"methods that draw: mean, and the least to the greatest over their own seeds; the others ran once.",
            ),
            "brittleness": Drawing(
                _draw_ranges(measured, looks, context.width),
                f"From the worst to the best value of each grid, and the value of params.yaml (dot): {protocol}. At "
                f"the right the range in points, and the share of the grid within {CLOSE:g} point of its best. Ranges "
                f"depend on the grid: rows compare methods within a knob, not knobs.",
            ),
        },
        tables={
            "brittleness": Frame(
                shown.rename(columns={"share": f"within {CLOSE:g} point, %"}), f"Sensitivity per knob: {protocol}."
            )
        },
        contrasts={f"{MAIN}, rho {radius:g}": gain for radius, gain in gains.items()},
    )


def _contrast_radii(rows: pd.DataFrame, context: Context) -> dict[float, Contrast]:
    """Contrast two radii of SAM with none: that of params.yaml and the largest."""
    part = rows[(rows.method == MAIN) & (rows.knob == "rho")]
    published, largest = float(part.value[part.published == 1].iloc[0]), float(part.value.max())
    radii = [radius for radius in dict.fromkeys((published, largest)) if radius > 0 and (part.value == 0).any()]
    if not radii:
        return {}
    marks = mark_settings(part, ("method", "knob", "value"), context.tasks, context.clusters)
    return {radius: contrast_settings(marks, [(MAIN, "rho", radius)], [(MAIN, "rho", 0.0)]) for radius in radii}


def _describe_ranges(measured: pd.DataFrame, context: Context) -> Iterator[str]:
    for knob in measured.knob.unique():
        part = measured[measured.knob == knob].sort_values("range", kind="stable")
        ranges = ", ".join(
            f"{context.titles[method]} {points:.{context.decimals}f} (n = {seeds})"
            for method, points, seeds in zip(part["method"], part["range"], part["seeds"], strict=True)
        )
        yield (
            f"Over {part['values'].min()} values of the {TITLES[knob]} the average accuracy ranges over, in points and "
            f"with n runs per value: {ranges}."
        )


@mpl.rc_context(STYLE)
def _draw_curves(runs: pd.DataFrame, looks: Mapping[str, Style], width: float) -> Figure:
    """Draw a panel per knob: average accuracy against its value, a line per method; dotted at each published value."""
    knobs = [knob for knob in TITLES if knob in set(runs.knob)]
    columns = min(3, len(knobs))
    lines = -(-len(knobs) // columns)
    figure = Figure((width, (2.0 if len(knobs) > 1 else 3.2) * lines + 0.5), layout="constrained")
    panels, handles = figure.subplots(lines, columns, squeeze=False, sharey=True), {}
    for axes, knob in zip(panels.flat, knobs, strict=False):
        for name, look in looks.items():
            part = runs[(runs.knob == knob) & (runs.method == name)]
            if len(part):
                plot_range(axes, part.set_index("value")[AVERAGE], "value", line_style(look))
                published = part.value[part.published == 1].iloc[0]
                axes.axvline(published, color=look.colour, linestyle=":", linewidth=0.8)
        axes.set_xlabel(TITLES[knob])
        _scale(axes, knob, runs[runs.knob == knob].value)
        axes.grid(alpha=0.3, linewidth=0.5)
        lines_of, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, lines_of, strict=True))
    for axes in panels.flat[len(knobs) :]:
        axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_ylabel("average accuracy (%)")
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=min(5, len(handles)))
    return figure


def _scale(axes: Axes, knob: str, values: pd.Series) -> None:
    """Make the x axis logarithmic where values are factors, and for ρ beyond its smallest positive value."""
    if knob == "rho":
        least = float(values[values > 0].min()) if (values > 0).any() else 1.0
        axes.set_xscale("symlog", linthresh=least, linscale=0.5)
        axes.set_xlim(-0.2 * least, 1.3 * max(float(values.max()), least))
    elif knob in LOGARITHMIC:
        axes.set_xscale("log")
    ticks = np.sort(values.unique())
    ticks = ticks[:: -(-len(ticks) // 5)] if knob != "scale" else ticks
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


@mpl.rc_context(STYLE)
def _draw_ranges(measured: pd.DataFrame, looks: Mapping[str, Style], width: float) -> Figure:
    """Draw a row per knob and method: a bar from the worst to the best accuracy, a dot at the published value."""
    parts = [measured[measured.knob == knob].sort_values("range", kind="stable") for knob in TITLES]
    knobs = sum(len(part) > 0 for part in parts)
    figure = Figure((width, 0.17 * len(measured) + 0.13 * knobs + 0.7), layout="constrained")
    axes, row, places, labels = figure.add_subplot(), 0.0, [], []
    for knob, part in zip(TITLES.values(), parts, strict=True):
        for one in part.to_dict("records"):
            look = looks[one["method"]]
            ends = [one["worst"], one["best"]]
            axes.plot(ends, [row, row], color=look.colour, linewidth=3, alpha=0.5, solid_capstyle="butt")
            axes.plot(one["published"], row, "o", color=look.colour)
            text = f"{one['range']:.1f}  {100 * one['share']:.0f} %"
            axes.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), va="center")
            places.append(row)
            labels.append(f"{knob}: {look.title}")
            row += 1
        row += 0.7 if len(part) else 0.0
    axes.set(yticks=places, yticklabels=labels, xlabel="average accuracy (%)")
    axes.set_ylim(row - 0.7 - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3, linewidth=0.5)
    return figure
